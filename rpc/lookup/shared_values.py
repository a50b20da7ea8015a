"""What many channels hear alike is made once: new heads, head changes, logs of the same filter.

A source runs while somebody hears it. Each head change is looked at once, each value encoded once, and what is left for
a channel is a frame and a write, in slices of the event loop like all long work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from blockstore.errors import StoreError
from chain.errors import ChainError
from rpc.context import Context
from rpc.errors import RpcError
from rpc.json_wire import encoder
from rpc.session import Burst, SharedReader, SharedText

log = logging.getLogger("follower.rpc")

_KEY: Final = "shared_values"
#: readers that are told in one turn of the event loop: a tenth of a millisecond
_TOLD_IN_A_TURN: Final = 128
#: sources of a process; further ones are each channel's own
_MOST: Final = 256


class Shown(NamedTuple):
    """What comes at once, after head change `seq`. `of`: where it is not None, no channel is told it twice running."""

    seq: int
    values: list[Any]
    of: object = None


Make = Callable[[Context, int], AsyncIterator[Shown]]


class _Source:
    """One source and its readers. `ctx`: of nobody."""

    def __init__(self, ctx: Context, make: Make, seen: int) -> None:
        self._ctx = ctx
        #: frames are written for as long as there are any; the work of a head change has its budget
        self._pacing = Context(ctx.services)
        self._make = make
        #: the last head change of which a value was told
        self.told = seen
        self.readers: dict[SharedReader, None] = {}
        self.task = asyncio.create_task(self._run(seen), name="shared values")

    async def _run(self, seen: int) -> None:
        encode = encoder(self._ctx.network.address_prefix)
        values = self._make(self._ctx, seen)
        try:
            async for shown in values:
                # who joins from here on must have seen this head change
                self.told = shown.seq
                await self._pacing.checkpoint()
                texts = [SharedText(encode(value)) for value in shown.values]
                for number, reader in enumerate(tuple(self.readers), 1):
                    if shown.seq > reader.seen and (shown.of is None or shown.of != reader.last):
                        reader.last = shown.of
                        reader.push(texts)
                    if number % _TOLD_IN_A_TURN == 0:
                        # less than a slice of the pacer: requests go before pushes
                        await asyncio.sleep(0)
                # no connection has more to push than what one head brings
                await self._ctx.services.pushes.reached()
        except (ChainError, StoreError, RpcError) as error:
            log.debug("what many channels hear has ended: %s", error)
        except Exception:
            log.exception("%s failed: closed", self)
        finally:
            for reader in self.readers:
                reader.end()
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()

    def __str__(self) -> str:
        return f"the source of {len(self.readers)} channels"


class SharedValues:
    """The sources of a process, by what they tell."""

    def __init__(self) -> None:
        self._sources: dict[Hashable, _Source] = {}

    @contextlib.contextmanager
    def reader(self, ctx: Context, key: Hashable, make: Make, seen: int) -> Iterator[SharedReader | None]:
        """A reader of what `make` tells after head change `seen`; None where it must be made for this channel alone.

        That is where values after `seen` have been told already, or where there are too many sources.
        """
        source = self._sources.get(key)
        if source is not None and source.task.done():
            source = None
        if source is None and len(self._sources) < _MOST:
            view = Context(ctx.services, version=ctx.version, permissions=ctx.permissions)
            view.time_budget_seconds = ctx.time_budget_seconds
            source = self._sources[key] = _Source(view, make, seen)
            source.task.add_done_callback(partial(self._ended, key, source))
        if source is None or seen < source.told:
            yield None
            return
        found = SharedReader(seen)
        source.readers[found] = None
        try:
            yield found
        finally:
            source.readers.pop(found, None)
            if not source.readers:
                source.task.cancel()
                self._ended(key, source)

    def _ended(self, key: Hashable, source: _Source, _: object = None) -> None:
        if self._sources.get(key) is source:
            del self._sources[key]


def shared_values(ctx: Context) -> SharedValues:
    """The process's `SharedValues`."""
    found: SharedValues | None = ctx.caches.get(_KEY)
    if found is None:
        found = ctx.caches[_KEY] = SharedValues()
    return found


async def heard(ctx: Context, key: Hashable, make: Make, seen: int) -> AsyncIterator[Any]:
    """For a channel method: the reader of a shared source, or each value where there is none."""
    with shared_values(ctx).reader(ctx, key, make, seen) as reader:
        if reader is not None:
            yield reader
            return
    last: object = None
    async for shown in make(ctx, seen):
        if shown.of is None or shown.of != last:
            last = shown.of
            yield Burst(shown.values)
