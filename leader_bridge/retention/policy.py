"""What a store keeps: how many epochs below its head, of each kind. Headers always stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Policy:
    """Epochs kept below the head; None: all. `state`: the states. `messages`: messages, receipts and events as objects.

    `indices`: rows by which messages, Ethereum transactions and events are found. `traces`: recorded traces.
    """

    state: int | None = None
    messages: int | None = None
    indices: int | None = None
    traces: int | None = None

    @property
    def is_archive(self) -> bool:
        """Whether nothing is ever dropped."""
        return self.state is None and self.messages is None and self.indices is None and self.traces is None

    def lowest_state(self, head: int) -> int:
        """The lowest epoch whose state is kept while the head is at epoch `head`."""
        return _lowest(head, self.state)

    def lowest_messages(self, head: int) -> int:
        """As `lowest_state`, of messages and receipts."""
        return _lowest(head, self.messages)

    def lowest_indices(self, head: int) -> int:
        """As `lowest_state`, of index rows."""
        return _lowest(head, self.indices)


ARCHIVE: Final = Policy()


def _lowest(head: int, epochs: int | None) -> int:
    return 0 if epochs is None else max(0, head - epochs)
