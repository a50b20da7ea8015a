"""What a scan of a whole store returns, on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from blockstore.generations import LASTING

#: the most of a page: bytes of values, and objects or rows
PAGE_BYTES: Final = 4 << 20
PAGE_ITEMS: Final = 1000


class StoredObject(NamedTuple):
    """An object as it stands in a store. `data` is None where the stored value cannot be read at all."""

    multihash: bytes
    data: bytes | None
    closed: bool


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """Some objects of one place. The next page begins behind `position`, which means something to the same store only.

    `place`: the number of the place; None for loose objects that are in none.
    """

    objects: list[StoredObject]
    position: bytes
    place: int | None


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a table: (partition, key, value). `position`: as of `ObjectPage`."""

    rows: list[tuple[bytes, bytes, bytes]]
    position: bytes


def part_name(place: int) -> str:
    """The name of a place of objects, for people."""
    return "lasting" if place == LASTING else f"generation {place}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a store's objects. `objects` and `bytes` (on disk) are None where only a scan would tell them."""

    name: str
    objects: int | None
    bytes: int | None
