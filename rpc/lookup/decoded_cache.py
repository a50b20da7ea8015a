"""Caches of decoded, immutable values, one per name and process, bounded in bytes."""

from __future__ import annotations

from typing import Any, Final

from cachetools import LRUCache

from rpc.context import Context

#: what an entry costs beside its text
_OVERHEAD: Final = 250

DecodedCache = LRUCache[bytes, tuple[Any, int]]


def decoded_cache(ctx: Context, name: str) -> DecodedCache:
    """The cache of this name."""
    cache: DecodedCache | None = ctx.caches.get(name)
    if cache is None:
        limit = ctx.services.cache_sizes.decoded
        cache = ctx.caches[name] = LRUCache(limit, getsizeof=lambda entry: entry[1])
    return cache


def keep(cache: DecodedCache, key: bytes, value: Any, size: int) -> None:
    """Keep a value of about `size` bytes, unless it would take much of the cache."""
    if size <= cache.maxsize // 8:
        cache[key] = (value, size)


class KeptTexts:
    """Texts of immutable objects by their CIDs, in a cache of decoded values. `kind`: what else they depend on."""

    __slots__ = ("_cache", "_kind")

    def __init__(self, cache: DecodedCache, kind: bytes = b"") -> None:
        self._cache = cache
        self._kind = kind

    def get(self, cid: bytes) -> bytes | None:
        """The text of an object, or None."""
        found = self._cache.get(self._kind + cid)
        return None if found is None else found[0]

    def keep(self, cid: bytes, text: bytes) -> None:
        """Keep a text, unless it would take much of the cache."""
        keep(self._cache, self._kind + cid, text, len(text) + _OVERHEAD)
