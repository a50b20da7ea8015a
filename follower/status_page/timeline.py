"""The newest part of the head log as a tree of tipsets: the chain, and the branches that reorgs left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from blockstore.store import HeadEntry, TipsetRef
from chain.tipset import TipsetKey
from follower.head import HeadLog

#: epochs below the head that are shown, and the most tipsets
EPOCHS: Final = 60
_MOST_TIPSETS: Final = 240
#: entries that are read at first
_FIRST_ENTRIES: Final = 90
_MOST_ENTRIES: Final = 300
_MOST_REORGS: Final = 8


@dataclass(slots=True)
class _Seen:
    height: int
    blocks: int
    parent: bytes | None
    is_on_chain: bool = True


class HeadTimeline:
    """Reads what is new in the head log, and keeps the tipsets of the last `EPOCHS` epochs."""

    def __init__(self, log: HeadLog) -> None:
        self._log = log
        self._seq = 0
        #: by tipset key, in the order of arrival
        self._tipsets: dict[bytes, _Seen] = {}
        self._chain: list[bytes] = []
        self._reorgs: deque[dict[str, int]] = deque(maxlen=_MOST_REORGS)

    async def read(self, newest: int) -> None:
        """Take in the entries up to `newest`. Errors: StoreError."""
        if newest < self._seq or newest - self._seq > _MOST_ENTRIES:
            # a log that went back, or the first look, or one after a long time
            self._tipsets.clear()
            self._chain.clear()
            self._reorgs.clear()
            self._seq = max(0, newest - _FIRST_ENTRIES)
        if newest == self._seq:
            return
        for entry in await self._log.head_entries(self._seq, _MOST_ENTRIES):
            if entry.seq > newest:
                break
            self._take(entry)

    def _take(self, entry: HeadEntry) -> None:
        for ref in entry.reverts:
            seen = self._tipsets.get(ref.key)
            if seen is not None:
                seen.is_on_chain = False
            if self._chain and self._chain[-1] == ref.key:
                self._chain.pop()
        if entry.reverts:
            self._reorgs.append({"seq": entry.seq, "depth": len(entry.reverts), "height": entry.reverts[-1].height})
        for ref in entry.applies[-_MOST_TIPSETS:]:
            self._apply(ref)
        self._seq = entry.seq
        low = entry.head.height - EPOCHS
        gone = [key for key, seen in self._tipsets.items() if seen.height < low]
        gone += list(self._tipsets)[: max(0, len(self._tipsets) - len(gone) - _MOST_TIPSETS)]
        for key in gone:
            self._tipsets.pop(key, None)
        if len(self._chain) > 2 * _MOST_TIPSETS:
            del self._chain[:-_MOST_TIPSETS]

    def _apply(self, ref: TipsetRef) -> None:
        parent = self._chain[-1] if self._chain else None
        known = self._tipsets.pop(ref.key, None)
        blocks = known.blocks if known is not None else len(TipsetKey(ref.key).cids)
        self._tipsets[ref.key] = _Seen(ref.height, blocks, parent)
        self._chain.append(ref.key)

    def report(self) -> dict[str, Any]:
        """The tipsets, oldest first. `parent`: the place in this list of the tipset below, or null."""
        places = {key: place for place, key in enumerate(self._tipsets)}
        return {
            "epochs": EPOCHS,
            "tipsets": [
                {
                    "height": seen.height,
                    "blocks": seen.blocks,
                    "key": str(TipsetKey(key).cid)[-8:],
                    "parent": None if seen.parent is None else places.get(seen.parent),
                    "on_chain": seen.is_on_chain,
                }
                for key, seen in self._tipsets.items()
            ],
            "reorgs": list(self._reorgs),
        }
