"""The names of archives: in settings and logs, and in the store's row of those that its rows were made over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import orjson

from blockstore.store import META, Batch, Store

#: JSON: the names (paths, and URLs without what may be secret in them), and the highest epoch of their chain
_ARCHIVES: Final = b"archives"


@dataclass(frozen=True, slots=True)
class Named:
    """The archives without which rows of a store lead to objects that are not held.

    `height`: the highest epoch of these rows; -1 for a store that needs no archive.
    """

    names: tuple[str, ...] = ()
    height: int = -1

    def put(self, batch: Batch) -> None:
        """Write the row with a batch."""
        batch.put(META, b"", _ARCHIVES, orjson.dumps({"names": self.names, "height": self.height}))


async def named_archives(store: Store) -> Named:
    """What the store's row says. Errors: StoreError."""
    value = await store.row(META, b"", _ARCHIVES)
    if value is None:
        return Named()
    raw = orjson.loads(value)
    return Named(tuple(raw["names"]), raw["height"])


async def archives_of(store: Store) -> list[str]:
    """Their names. Errors: StoreError."""
    return list((await named_archives(store)).names)


def is_url(place: str) -> bool:
    """Whether an archive is named by a URL."""
    return place.startswith(("http://", "https://"))


def shown_place(place: str) -> str:
    """The name of an archive for people: a path, or a URL without user, password, query and fragment."""
    if not is_url(place):
        return place
    parts = urlsplit(place)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
