"""From which epoch on a store holds states, messages and index rows: what its bridge has dropped below, and its policy.

One row of META. The bridge moves an epoch up first; what lies below is removed a while later. So whoever has read the
row says "not held" before anything is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final

import orjson

from blockstore.archive.named import named_archives
from blockstore.store import META, Batch, Store

_KEPT: Final = b"kept"
#: seconds for which a reader trusts what it has read; far less than a bridge waits before it removes anything
FRESH_SECONDS: Final = 5.0
#: what a policy may not go below: the deepest reorg that a bridge publishes, and finality. What is younger may still be
#: asked for as "final" by a client whose head is reverted so far
LEAST_EPOCHS: Final = 900 + 900
#: finality and a day
DEFAULT_STATE_EPOCHS: Final = 900 + 2880
#: a month
DEFAULT_MESSAGE_EPOCHS: Final = 30 * 2880

STATE: Final = "state"
MESSAGES: Final = "messages"
INDICES: Final = "indices"
_WORDS: Final = {STATE: "states", MESSAGES: "messages and receipts", INDICES: "index rows"}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is held, by kind. `lowest`: the lowest epoch, 0 where nothing was dropped. `removed`: the epoch below which
    nothing is left. `policy`: the epochs that are kept below the head; None: all. `archived`: up to this epoch rows
    lead to archives that are served in place, and nothing of them is dropped; -1: none."""

    lowest: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    policy: dict[str, int | None] = field(default_factory=dict)
    archived: int = -1

    @property
    def state(self) -> int:
        """The lowest epoch whose state is held, of those that ever were."""
        return self.lowest.get(STATE, 0)

    def has_dropped_state(self, epoch: int) -> bool:
        """Whether the state of an epoch is held no more. The genesis' state stays, which is the first tipset's too."""
        return max(1, self.archived) < epoch < self.state

    @property
    def messages(self) -> int:
        """The lowest epoch whose messages and receipts are held."""
        return self.lowest.get(MESSAGES, 0)

    @property
    def indices(self) -> int:
        """The lowest epoch that has index rows."""
        return self.lowest.get(INDICES, 0)

    def raised(self, lowest: dict[str, int], *, removed: bool = False) -> Kept:
        """With these epochs as the lowest, where they are higher than before. `removed`: nothing is left below."""
        higher = {kind: max(epoch, self.lowest.get(kind, 0)) for kind, epoch in lowest.items()}
        gone = {**self.removed, **higher} if removed else self.removed
        return replace(self, lowest={**self.lowest, **higher}, removed=gone)

    def report(self) -> list[dict[str, int | str | None]]:
        """For status pages, by kind: the epochs that the policy keeps (None: all), and the lowest that is held."""
        return [
            {"kind": word, "epochs": self.policy.get(kind), "from": self.lowest.get(kind, 0)}
            for kind, word in _WORDS.items()
        ]

    def lines(self) -> list[str]:
        """The same as lines of text; none where no bridge has said yet what it keeps."""
        return [
            f"{one['kind']}: {'all' if one['epochs'] is None else str(one['epochs']) + ' epochs'}"
            + (f", held from epoch {one['from']}" if one["from"] else "")
            for one in (self.report() if self.policy else [])
        ]

    def text(self) -> str:
        """What was dropped, in a few words; empty where nothing was."""
        found = [f"{word} from epoch {low}" for kind, word in _WORDS.items() if (low := self.lowest.get(kind, 0))]
        return f"held: {', '.join(found)}" if found else ""


async def load_kept(store: Store) -> Kept:
    """What the store's row says."""
    value = await store.row(META, b"", _KEPT)
    archived = (await named_archives(store)).height
    if value is None:
        return Kept(archived=archived)
    raw = orjson.loads(value)
    return Kept(raw["lowest"], raw["removed"], raw["policy"], archived)


def save_kept(batch: Batch, kept: Kept) -> None:
    """Write the row with a batch."""
    value = {"lowest": kept.lowest, "removed": kept.removed, "policy": kept.policy}
    batch.put(META, b"", _KEPT, orjson.dumps(value))


class KeptReader:
    """Reads the row again when it is no longer fresh. `known`: what was read last."""

    def __init__(self, store: Store, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self.known = Kept()
        self._fresh_until = float("-inf")

    async def get(self) -> Kept:
        """What the store holds, as it was a few seconds ago."""
        now = self._clock()
        if now >= self._fresh_until:
            self.known = await load_kept(self._store)
            self._fresh_until = now + FRESH_SECONDS
        return self.known
