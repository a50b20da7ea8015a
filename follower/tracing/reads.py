"""Notes what traced calls read, and how long that takes: of the store, and of each source of objects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

from blockstore.store import Store
from blockstore.tier.sources import Outcome, RankedSources, Source
from rpc.observe.call_record import current_spans

R = TypeVar("R")
#: how the reads of a store are called in traces
STORE: Final = "store"
_READS: Final = ("get", "get_many", "held_many", "row", "rows", "scan", "head", "head_entries")


def note_store_reads(store: Store) -> None:
    """Note the reads of this store from now on."""
    for name in _READS:
        setattr(store, name, _noted(getattr(store, name)))


def note_source_reads(ranked: Iterable[RankedSources[Any]]) -> None:
    """Note what is read from each source of objects from now on."""
    for sources in ranked:
        for standing in sources.standings:
            standing.source = NotedSource(standing.source)


def _noted(read: Callable[..., Coroutine[Any, Any, R]]) -> Callable[..., Coroutine[Any, Any, R]]:
    @functools.wraps(read)
    async def noted(*args: Any, **kwargs: Any) -> R:
        spans = current_spans()
        if spans is None:
            return await read(*args, **kwargs)
        began = perf_counter()
        found: Any = None
        try:
            found = await read(*args, **kwargs)
            return found  # type: ignore[no-any-return]
        finally:
            count = len(found) if isinstance(found, list) else int(found is not None)
            spans.note_read(STORE, began, count)

    return noted


class NotedSource:
    """A source of objects whose reads are noted."""

    def __init__(self, source: Source[Any]) -> None:
        self._source = source

    @property
    def name(self) -> str:
        """See Source."""
        return self._source.name

    async def read(self, keys: Sequence[Any]) -> Sequence[Outcome]:
        """See Source."""
        spans = current_spans()
        if spans is None:
            return await self._source.read(keys)
        began = perf_counter()
        given = 0
        try:
            found = await self._source.read(keys)
            given = sum(isinstance(outcome, bytes) for outcome in found)
            return found
        finally:
            spans.note_read(f"objects of {self.name}", began, given)

    async def probe(self) -> None:
        """See Source."""
        await self._source.probe()
