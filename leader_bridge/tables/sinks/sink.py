"""What a place of rows promises.

Beside the rows it keeps a *ledger*: which tipset the rows of a task at an epoch are made of. Rows and their ledger
become durable together, so a run that was killed is continued where it was, and a reorg is noticed by the next run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from chain.errors import ChainError
from leader_bridge.tables.table import Row, Task


class SinkError(ChainError):
    """The place of the rows cannot take them. The text never has a password."""


#: the CID of the tipset's key, by epoch, of one task
Ledger = dict[int, str]


class Sink(Protocol):
    """A place of rows. All methods raise SinkError, and OSError where files are written."""

    #: for messages: without a password
    name: str
    #: epochs of a span, as `begin` takes them: spans begin at its multiples
    span: int

    async def begin(self, low: int, high: int, tasks: Sequence[Task]) -> Mapping[str, Ledger]:
        """Begin a span: epochs `low` to `high`, of one multiple of `span`. The ledgers by the tasks' names."""

    async def replace(self, task: Task, height: int, tipset: str | None, parts: AsyncIterator[list[Row]]) -> int:
        """Replace what a task has at an epoch by the rows of another tipset; their number.

        `tipset`: the CID of its key; None: no tipset, what is there is withdrawn. If `parts` raises, what was written
        of it is taken back.
        """

    async def end(self) -> None:
        """End the span: all that was written is durable when this returns."""

    async def abandon(self) -> None:
        """Drop what was written since `begin`. Never raises: the next `begin` meets what is wrong with the place."""

    async def close(self) -> None:
        """Leave; what was written since the last `end` may be lost."""
