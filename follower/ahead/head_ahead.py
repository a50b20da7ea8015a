"""Watches heads, and reads ahead for each what requests will ask for; the next head ends what is not done by then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

from blockstore.errors import StoreError
from chain.address import Address
from chain.errors import ChainError
from chain.state.recent_actors import RecentActors
from rpc.context import Context
from rpc.errors import RpcError
from rpc.lookup.actor_states import RECENT_ACTORS
from rpc.lookup.ahead.read_ahead import read_ahead
from rpc.lookup.ahead.recent_questions import recent_questions
from rpc.pacer import LoopPacer
from rpc.services import Head, Services

if TYPE_CHECKING:
    from rpc.server.metrics import Metrics

log = logging.getLogger(__name__)

#: seconds that reading ahead for one head may take
_MOST_SECONDS: Final = 5.0
#: seconds of the loop's turn that it may use: a sixth of what requests' own walks may
_SLICE_SECONDS: Final = 0.0005
#: seconds until the head log is asked again after an error
_RETRY_SECONDS: Final = 1.0

_DONE, _CUT, _LATE, _FAILED = "done", "next head", "time", "error"


class HeadAhead:
    """Reads ahead at each head. `most_actors`: how many actors are remembered, and read at a head; 0 for none. `look`:
    looks for the newest head, and does not make a follower look busy (default: the services' own source)."""

    def __init__(
        self, services: Services, most_actors: int, look: Callable[[], Awaitable[Head | None]] | None = None
    ) -> None:
        self._look = look
        # the same caches, but a smaller part of each turn
        self._services = replace(services, pacer=LoopPacer(_SLICE_SECONDS))
        self._recent = RecentActors(most_actors)
        if most_actors:
            services.caches[RECENT_ACTORS] = self._recent
        self._task: asyncio.Task[None] | None = None
        self.outcomes: dict[str, int] = dict.fromkeys((_DONE, _CUT, _LATE, _FAILED), 0)
        self.seconds = 0.0

    def register(self, metrics: Metrics) -> None:
        """Tell how often it was done, how long it took, and how much of it was of use."""
        metrics.labelled_counter(
            "follower_read_ahead_heads",
            "Heads for which was read ahead, by how it ended: done, next head, time, error.",
            "outcome",
            lambda: self.outcomes,
        )
        metrics.counter(
            "follower_read_ahead_seconds", "Seconds that reading ahead lasted, with its waits.", lambda: self.seconds
        )
        metrics.counter("follower_read_ahead_actors", "Actors that were read ahead.", lambda: self._recent.read)
        metrics.counter(
            "follower_read_ahead_actors_used",
            "Actors that were read ahead and then asked for.",
            lambda: self._recent.used,
        )

    def begin(self, head: Head) -> None:
        """A head is served for the first time: give up the one before."""
        actors = self._recent.begin(head.tipset.parent_state_root)
        ctx = Context(self._services)
        ctx.pinned = head
        recent_questions(ctx).next_head()
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._read(ctx, actors), name="read ahead")

    async def run(self) -> None:
        """Follow the heads until cancelled: without requests, nobody else looks for a new one."""
        source = self._services.head_source
        look = self._look or source.current
        try:
            while True:
                entries = source.subscribe()
                try:
                    async for _ in entries:
                        await look()
                except (StoreError, ChainError, RpcError) as error:
                    log.debug("heads cannot be followed now: %s", error)
                finally:
                    if isinstance(entries, AsyncGenerator):
                        await entries.aclose()
                # the log cannot be read, or this reader was too slow
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, ctx: Context, actors: Sequence[Address]) -> None:
        began = perf_counter()
        outcome = _FAILED
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                # who waits for this head comes first
                await asyncio.sleep(0)
                await read_ahead(ctx, actors)
            outcome = _DONE
        except TimeoutError:
            outcome = _LATE
        except asyncio.CancelledError:
            outcome = _CUT
            raise
        except (StoreError, ChainError, RpcError) as error:
            log.debug("nothing is read ahead for this head: %s", error)
        finally:
            self.outcomes[outcome] += 1
            self.seconds += perf_counter() - began
