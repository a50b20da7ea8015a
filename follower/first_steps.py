"""What `follower up` says at its start: what it follows, where the store is, what is served where, how far it is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final, Protocol

import aiohttp

from blockstore.bridge_rows import BridgeRow, read_bridges
from blockstore.errors import StoreError
from blockstore.open import open_store
from blockstore.store import Store
from follower.settings import Settings

_POLL: Final = 0.25
#: seconds between two lines while it is not ready
_PATIENCE: Final = 15.0
#: a bridge without a backfill for so many seconds has none to do
_NO_BACKFILL_SECONDS: Final = 10.0
#: a backfill that has not moved for so many seconds waits for a node; the log tells of it
_STILL_SECONDS: Final = 60.0
_HEAD: Final = re.compile(r"head (\d+), entry")


def served_at(settings: Settings) -> str:
    """HOST:PORT under which this machine reaches what is served."""
    host, _, port = settings["listen"].rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{host}:{port}"


def introduction(settings: Settings, follows: str, store: str) -> str:
    """A few lines for an operator. `follows`: the nodes, by name; `store`: its URL without credentials."""
    address = served_at(settings)
    lines = [
        f"follows  {follows}",
        f"store    {store}, state = {settings['state']}",
        f"serves   http://{address}/rpc/v1 (JSON-RPC, WebSocket), /metrics, /healthz",
    ]
    if settings["status_page"] != "off":
        lines.append(f"status   http://{address}/ in a browser, or: follower status --watch --listen {address}")
    return "\n".join([*lines, "Ctrl-C stops it."])


async def say_when_ready(address: str, say: Callable[[str], None]) -> None:
    """Ask the follower at `address` until it is ready, and say so; now and then say what it waits for."""
    began = said_at = time.monotonic()
    why = "the follower has not started to listen: its store holds no head yet"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            try:
                async with session.get(f"http://{address}/readyz?verbose") as answer:
                    text = (await answer.content.read(8192)).decode(errors="replace")
                if answer.status == 200:
                    head = _HEAD.search(text)
                    where = f", head epoch {head[1]}" if head else ""
                    say(f"ready after {time.monotonic() - began:.1f} s{where}")
                    return
                why = "; ".join(line[4:] for line in text.splitlines() if line.startswith("[!]"))
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            if time.monotonic() - said_at >= _PATIENCE:
                said_at = time.monotonic()
                say(f"not ready after {said_at - began:.0f} s: {why}")
            await asyncio.sleep(_POLL)


class Reporter(Protocol):
    """Shows progress: a bar on a terminal, lines elsewhere (`leader_bridge.imports.progress`)."""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        """A new piece of work begins; `total` None: it is not known."""

    def at(self, done: int, note: str = "") -> None:
        """So much of it is done."""

    def say(self, text: str) -> None:
        """Show a line."""

    def end(self) -> None:
        """The piece of work is over."""


async def report_start(address: str, store_url: str, reporter: Reporter) -> None:
    """Show the bridge's progress, and say when the follower at `address` is ready. Ends when nothing is left to do."""
    ready = asyncio.Event()
    watching = asyncio.create_task(watch_bridge(store_url, reporter, ready))
    try:
        await say_when_ready(address, reporter.say)
        ready.set()
        await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        reporter.end()


async def watch_bridge(store_url: str, reporter: Reporter, ready: asyncio.Event, *, poll_seconds: float = 1.0) -> None:
    """Show how far the bridge is that writes to an LMDB store: its first state, then its backfill.

    It tells so in its row (`blockstore.bridge_rows`). Ends when `ready` is set and there is no more to fetch.
    """
    if not store_url.startswith("lmdb://"):
        return
    store: Store | None = None
    shown = _Shown(reporter)
    try:
        while True:
            try:
                store = store or await open_store(store_url, readonly=True)
                rows = [row for row in await read_bridges(store) if row.leads]
            except StoreError:
                rows = []  # nobody has made it yet
            idle_seconds = shown.update(rows[0]) if rows else 0.0
            if ready.is_set() and idle_seconds >= _NO_BACKFILL_SECONDS:
                return
            await asyncio.sleep(poll_seconds)
    finally:
        if store is not None:
            await store.close()


class _Shown:
    """The phase that is shown, and since when nothing has moved."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._phase = ""
        self._total = 0
        self._last: tuple[int, int] = (0, 0)
        self._moved_at = time.monotonic()

    def update(self, row: BridgeRow) -> float:
        """Show what a bridge tells. The result: for how many seconds there has been nothing to show."""
        now = time.monotonic()
        figures = (row.fetched, row.backfill_left)
        if figures != self._last:
            self._last, self._moved_at = figures, now
        if row.height < 0:
            if row.fetched:
                what = "first state" if row.policy == "full" else "first tipsets"
                self._begin(what, 0, None, "objects")
                self._reporter.at(row.fetched)
            return 0.0
        if row.backfill_left and now - self._moved_at < _STILL_SECONDS:
            if self._phase != "backfill" or row.backfill_left > self._total:
                self._begin("backfill", row.backfill_left, row.backfill_left, "epochs")
            self._reporter.at(self._total - row.backfill_left)
            return 0.0
        if self._phase:
            if self._phase == "backfill" and not row.backfill_left:
                self._reporter.at(self._total)
            self._reporter.end()
            self._phase, self._moved_at = "", now
        return now - self._moved_at if not row.backfill_left else _NO_BACKFILL_SECONDS

    def _begin(self, what: str, total: int, shown_total: int | None, unit: str) -> None:
        if (what, total) != (self._phase, self._total):
            self._phase, self._total = what, total
            self._reporter.phase(what, shown_total, unit)
