"""Runs hooks on tipsets, in a process of their own: nothing that a hook does delays serving or publishing.

Why a process, and what "once" means: docs/adr/0110-hooks-in-a-process-of-their-own.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from blockstore.errors import BadExtension, StoreError
from blockstore.extensions import TIPSET_HOOKS, Extension, find_extensions
from blockstore.store import Store
from chain.errors import ChainError
from chain.tipset import TipsetKey
from follower.extending.chain import Chain, chain_over
from follower.extending.hook import TipsetChange, TipsetHook, position_text, read_position
from follower.extending.hook_place import HookPlace, HookTaken
from rpc.lookup.head_changes import Cursor, Step, cursor_at_head, steps_since

log = logging.getLogger(__name__)

CALLS: Final = Counter("follower_hook_calls", "Tipsets that a hook has handled.", ["hook", "change"])
FAILURES: Final = Counter(
    "follower_hook_failures",
    "Calls of a hook that failed, by reason: error, time. Each is made again.",
    ["hook", "reason"],
)
SECONDS: Final = Histogram(
    "follower_hook_seconds", "Seconds of a hook's call.", ["hook"], buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30)
)
LAG: Final = Gauge("follower_hook_lag_heads", "Head changes that a hook has not handled yet.", ["hook"])
RUNS: Final = Gauge("follower_hook_runs", "1 while this process runs the hook, 0 while another does.", ["hook"])

_POLL_SECONDS: Final = 0.1
_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 60.0
#: how much longer than its time limit a hook may keep the event loop before the process ends
_GRACE_SECONDS: Final = 5.0
_BEAT_SECONDS: Final = 1.0


def load_hooks(only: str | None = None) -> dict[str, TipsetHook]:
    """The hooks of all installed packages, or the one called `only`, by name. Errors: BadExtension."""
    return {one.name: _load(one) for one in find_extensions(TIPSET_HOOKS) if only in (None, one.name)}


def _load(extension: Extension) -> TipsetHook:
    found = extension.load()
    if not isinstance(found, type) or not issubclass(found, TipsetHook):
        raise extension.error("it names no class that derives from follower.TipsetHook")
    try:
        return found()
    except Exception as error:
        raise extension.error(f"{type(error).__name__}: {error}") from error


class HookRunner:
    """One hook over one store. `limit_seconds`: for one call; `lease_seconds`: see `HookPlace`."""

    def __init__(
        self, name: str, hook: TipsetHook, store: Store, *, limit_seconds: float, lease_seconds: float
    ) -> None:
        self.name = name
        self._hook = hook
        self._store = store
        self._limit_seconds = limit_seconds
        self._lease_seconds = lease_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Run the hook until `stop` is set. Raises only BadExtension (it tells a position that is none)."""
        wait = _FIRST_RETRY_SECONDS
        while not stop.is_set():
            place = HookPlace(self._store, self.name, self._lease_seconds)
            try:
                if await place.take(stop):
                    wait = _FIRST_RETRY_SECONDS
                    RUNS.labels(self.name).set(1)
                    await self._run_here(place, stop)
            except HookTaken as error:
                log.warning("hook %s stands by: %s", self.name, error)
            except (StoreError, ChainError) as error:
                if isinstance(error, BadExtension):
                    raise
                log.warning("hook %s waits: %s", self.name, error)
                await self._pause(stop, wait)
                wait = min(wait * 2, _LONGEST_RETRY_SECONDS)
            finally:
                RUNS.labels(self.name).set(0)
                await place.release()
        await self._close()

    async def _run_here(self, place: HookPlace, stop: asyncio.Event) -> None:
        renewing = asyncio.create_task(place.renew())
        following = asyncio.create_task(self._follow(place, stop))
        try:
            done, _ = await asyncio.wait({renewing, following}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (renewing, following):
                task.cancel()
            await asyncio.gather(renewing, following, return_exceptions=True)

    async def _follow(self, place: HookPlace, stop: asyncio.Event) -> None:
        async with chain_over(self._store) as chain:
            cursor = await self._begin(place, chain)
            while not stop.is_set():
                head = await chain.newest()
                LAG.labels(self.name).set(max(0, head.seq - cursor.seq))
                if head.seq <= cursor.seq:
                    await self._pause(stop, _POLL_SECONDS)
                    continue
                async for step in steps_since(chain.context_at_head(head), cursor, head):
                    if not await self._tell(chain, step, stop):
                        return
                    cursor = step.after
                    await place.keep(position_text(cursor))
                    LAG.labels(self.name).set(max(0, head.seq - cursor.seq))
                    if stop.is_set():
                        return

    async def _begin(self, place: HookPlace, chain: Chain) -> Cursor:
        """Where to go on. Errors: BadExtension, StoreError, NotHeld."""
        kept = await self._hook.position() if self._hook.keeps_position else place.position
        if kept is not None:
            try:
                return read_position(kept)
            except ValueError as error:
                raise BadExtension(f"hook {self.name} cannot go on: {error}") from None
        if self._hook.begins_at == "oldest":
            entries = await self._store.head_entries(0, 1)
            if entries:
                first = entries[0]
                return Cursor(first.seq - 1, 0, first.head.height, TipsetKey(first.head.key))
        return cursor_at_head(await chain.newest())

    async def _tell(self, chain: Chain, step: Step, stop: asyncio.Event) -> bool:
        """Call the hook until it succeeds; False when `stop` is set first. Errors: StoreError, ChainError."""
        change = TipsetChange(await chain.tipset(step.key), step.reverted, position_text(step.after))
        told = "reverted" if step.reverted else "applied"
        call = self._hook.reverted if step.reverted else self._hook.applied
        wait = _FIRST_RETRY_SECONDS
        while not stop.is_set():
            try:
                with SECONDS.labels(self.name).time():
                    async with asyncio.timeout(self._limit_seconds):
                        await call(chain, change)
            except TimeoutError:
                FAILURES.labels(self.name, "time").inc()
                log.error(
                    "hook %s: the call for epoch %d (%s) took more than %g s; it is made again",
                    self.name, change.tipset.height, told, self._limit_seconds,
                )  # fmt: skip
            except Exception:
                FAILURES.labels(self.name, "error").inc()
                log.exception("hook %s: the call for epoch %d (%s) failed; it is made again",
                              self.name, change.tipset.height, told)  # fmt: skip
            else:
                CALLS.labels(self.name, told).inc()
                return True
            await self._pause(stop, wait)
            wait = min(wait * 2, _LONGEST_RETRY_SECONDS)
        return False

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._limit_seconds):
                await self._hook.close()
        except Exception:
            log.exception("hook %s did not close", self.name)

    @staticmethod
    async def _pause(stop: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


async def run_hooks(
    hooks: dict[str, TipsetHook], store: Store, stop: asyncio.Event, *, limit_seconds: float, lease_seconds: float
) -> None:
    """Run hooks over a store until `stop` is set. None waits for another. Errors: BadExtension."""
    watchdog = asyncio.create_task(_end_process_when_blocked(limit_seconds + _GRACE_SECONDS))
    try:
        await _run_all(hooks, store, stop, limit_seconds, lease_seconds)
    finally:
        watchdog.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _end_process_when_blocked(seconds: float) -> None:
    """End the process, with the stacks of its threads, when the event loop stands still so long: a call that does not
    await cannot be cancelled."""
    while True:
        faulthandler.dump_traceback_later(seconds, exit=True)
        await asyncio.sleep(min(_BEAT_SECONDS, seconds / 4))


async def _run_all(
    hooks: dict[str, TipsetHook], store: Store, stop: asyncio.Event, limit_seconds: float, lease_seconds: float
) -> None:
    async with asyncio.TaskGroup() as group:
        for name, hook in hooks.items():
            runner = HookRunner(name, hook, store, limit_seconds=limit_seconds, lease_seconds=lease_seconds)
            group.create_task(runner.run(stop), name=f"hook {name}")
