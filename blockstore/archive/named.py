"""The names of archives: in settings and logs, and in the store's row of those that its rows were made over."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

import orjson

from blockstore.store import META, Store

#: JSON, a list of names: paths, and URLs without what may be secret in them
ARCHIVES: Final = b"archives"


async def archives_of(store: Store) -> list[str]:
    """The archives without which the store's rows lead to objects that are not held. Errors: StoreError."""
    value = await store.row(META, b"", ARCHIVES)
    return [] if value is None else list(orjson.loads(value))


def is_url(place: str) -> bool:
    """Whether an archive is named by a URL."""
    return place.startswith(("http://", "https://"))


def shown_place(place: str) -> str:
    """The name of an archive for people: a path, or a URL without user, password, query and fragment."""
    if not is_url(place):
        return place
    parts = urlsplit(place)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
