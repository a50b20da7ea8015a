"""What is wrong in a store, one by one, and whether it was mended."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from blockstore.cid import DAG_CBOR, Cid, uvarint

#: damages that a report keeps; of the others it keeps the number
_MOST_KEPT: Final = 10_000


class Kind(enum.StrEnum):
    """What is damaged."""

    OBJECT = "object"
    MISSING = "missing object"
    HELD = "held flag"
    TIPSET = "tipset row"
    HEIGHT = "height row"
    POST = "post-state row"
    MESSAGE = "message row"
    ETH_TX = "eth transaction row"
    EVENT = "event row"
    COVERAGE = "coverage row"
    RECORDED = "recorded answer"
    HEAD_LOG = "head log entry"


@dataclass(slots=True)
class Damage:
    """One thing that is wrong. `key` is a CID, a hash, or what else names the object or row; `what` a short sentence.

    `mended` says how it was mended ("": it was not).
    """

    kind: Kind
    key: str
    what: str
    mended: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.what}" + (f" ({self.mended})" if self.mended else "")


@dataclass(slots=True)
class CheckReport:
    """What a check has looked at and found. `damages` are the first ones; `found` and `open` count all of them."""

    objects: int = 0
    object_bytes: int = 0
    tipsets: int = 0
    rows: int = 0
    damages: list[Damage] = field(default_factory=list)
    found: Counter[Kind] = field(default_factory=Counter)
    open: int = 0
    #: is told each damage when it is known whether it was mended
    tell: Callable[[Damage], None] | None = None
    #: CIDs of the keys of tipsets whose rows are damaged and not mended: what they say is not held against other rows
    doubtful: set[bytes] = field(default_factory=set)
    _seen: set[tuple[Kind, str]] = field(default_factory=set)

    def add(self, damage: Damage) -> None:
        """Note a damage, mended or not. One that two passes find counts once."""
        name = (damage.kind, damage.key)
        if name in self._seen:
            return
        if len(self._seen) < _MOST_KEPT:
            self._seen.add(name)
        self.found[damage.kind] += 1
        self.open += not damage.mended
        if len(self.damages) < _MOST_KEPT:
            self.damages.append(damage)
        if self.tell is not None:
            self.tell(damage)

    def to_json(self) -> dict[str, Any]:
        """As `follower store check --json` prints it."""
        return {
            "objects": self.objects,
            "object_bytes": self.object_bytes,
            "tipsets": self.tipsets,
            "rows": self.rows,
            "found": {str(kind): count for kind, count in self.found.items()},
            "not_mended": self.open,
            "damages": [
                {"kind": str(one.kind), "key": one.key, "what": one.what, "mended": one.mended} for one in self.damages
            ],
        }


def cid_under(multihash: bytes, codec: int = DAG_CBOR) -> Cid:
    """A CID of an object of which only the multihash is known. Nodes look for the multihash, whatever the codec."""
    return Cid(b"\x01" + uvarint(codec) + multihash)
