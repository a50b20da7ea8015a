"""The record of the call that is being answered, found by whatever runs on its behalf."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

#: the source of an answer that was made here
LOCAL: Final = "local"
#: the source of a full node's answer that was kept
KEPT_OF_NODE: Final = "kept answer of a node"


class CallRecord:
    """One call. `source`: who made its answer: `LOCAL`, or the full node by host and port."""

    __slots__ = ("cache", "source")

    def __init__(self) -> None:
        self.source = LOCAL
        #: as `X-Cache` says; "" where the answer is not one that is kept
        self.cache = ""


#: the record of the current call; None where nobody observes
CURRENT_CALL: Final[ContextVar[CallRecord | None]] = ContextVar("current_call", default=None)


def note_source(name: str) -> None:
    """Note who made the answer to the current call."""
    record = CURRENT_CALL.get()
    if record is not None:
        record.source = name
