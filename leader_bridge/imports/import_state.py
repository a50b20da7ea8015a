"""The rows of an import that has not ended: how far it is, and the mark of a store that is not to be served yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from blockstore.store import META, Batch, Store
from leader_bridge.imports.undecided import Undecided

MARK: Final = b"import"
PROGRESS: Final = b"import_progress"


@dataclass(slots=True)
class ImportState:
    """How far an import is: a row in its store."""

    fingerprint: str
    head: list[str]
    offset: int = 0
    whole: bool = False
    indexed: str = ""
    objects: int = 0
    #: what `Undecided` knows
    head_height: int = -1
    is_head_seen: bool = False
    is_below: bool = False
    is_aside: bool = False
    #: the objects are in sorted runs beside the store
    is_sorted: bool = False

    def restart(self) -> None:
        """Begin at the first byte again."""
        self.offset, self.whole, self.indexed, self.is_sorted = 0, False, "", False
        self.head_height, self.is_head_seen, self.is_below, self.is_aside = -1, False, False, False

    def note(self, undecided: Undecided) -> None:
        """Remember how the policy has divided the file so far."""
        self.head_height, self.is_head_seen = undecided.head_height, undecided.is_head_seen
        self.is_below, self.is_aside = undecided.is_below, undecided.is_used

    def put(self, batch: Batch) -> None:
        """Add the row to a batch."""
        value = {name: getattr(self, name) for name in self.__slots__}
        batch.put(META, b"", PROGRESS, orjson.dumps(value))


async def load_state(store: Store) -> ImportState | None:
    """The row of an import that has not ended."""
    value = await store.row(META, b"", PROGRESS)
    if value is None:
        return None
    try:
        return ImportState(**orjson.loads(value))
    except TypeError:
        return None  # another version's: the import begins anew over what is stored
