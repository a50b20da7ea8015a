"""Snapshots one after another into a folder, of which the newest are kept.

The folder itself says what was made and when: so a restarted schedule goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blockstore.car.snapshot_forms import Form
from blockstore.errors import StoreError
from blockstore.store import Store
from chain.errors import BadRequest, ChainError, NotHeld
from chain.network import load_network
from chain.tipset import Tipset
from leader_bridge.exports.exporter import CHECKSUM, UNFINISHED, ExportReport
from leader_bridge.imports.progress import Reporter

#: seconds between two looks at the head, and between a failure and the next attempt
_LOOK: Final = 5.0
_RETRY: Final = 60.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INTERVAL: Final = re.compile(r"(\d+)(s|m|h|d|epochs)?")
_NAME: Final = re.compile(r"snapshot_[\w-]+_\d{4}-\d\d-\d\d_height_(\d+)((?:\.forest)?\.car(?:\.zst)?)")


@dataclass(frozen=True, slots=True)
class Interval:
    """How often a snapshot is made: one of the two is above 0."""

    epochs: int = 0
    seconds: int = 0


def parse_interval(text: str) -> Interval:
    """`90m`, `12h`, `1d`, `30s`, or a number of epochs (`2880`, `2880epochs`). Errors: BadRequest."""
    found = _INTERVAL.fullmatch(text.strip().replace(" ", ""))
    if found is None or not int(found[1]):
        raise BadRequest(f"{text!r} is no interval: give for example 12h, 1d or 2880epochs")
    count, unit = int(found[1]), found[2]
    return Interval(seconds=count * _UNITS[unit]) if unit in _UNITS else Interval(epochs=count)


async def snapshot_name(store: Store, head: Tipset, form: Form) -> str:
    """The name of a snapshot file: network, day of the head, epoch of the head. Errors: NotHeld."""
    network = await load_network(store)
    if network is None:
        raise NotHeld("the network's record")
    day = datetime.fromtimestamp(head.min_timestamp, UTC).date().isoformat()
    return f"snapshot_{re.sub(r'[^A-Za-z0-9-]', '-', network.name)}_{day}_height_{head.height}{form.value}"


def finished_snapshots(folder: Path) -> list[tuple[int, Path]]:
    """(epoch of the head, file) of the snapshots in a folder, newest first. Other files are not looked at."""
    found = [(int(name[1]), path) for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what exports left that were killed; not what is being written now. The files removed."""
    removed = []
    for path in folder.iterdir():
        if not path.name.endswith(UNFINISHED) or not _NAME.fullmatch(path.name[: -len(UNFINISHED)]):
            continue
        with path.open("ab") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed.append(path)
    return removed


def remove_old(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` snapshots, and their checksums. The snapshots removed."""
    old = [path for _, path in finished_snapshots(folder)[keep:]]
    for path in old:
        path.unlink(missing_ok=True)
        path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)
    return old


async def export_on_schedule(
    store: Store,
    folder: Path,
    interval: Interval,
    export: Callable[[], Awaitable[ExportReport | None]],
    stop: asyncio.Event,
    *,
    keep: int = 0,
    progress: Reporter,
) -> None:
    """Call `export` at each interval until `stop` is set; then keep the newest `keep` files (0: all).

    `export` writes a file with a `snapshot_name` into `folder`; None: there is nothing new. An error of the first
    attempt is raised. A later one is shown, and tried again. Errors: StoreError, ChainError, OSError.
    """
    tried = False
    while not stop.is_set():
        wait = await _wait(store, folder, interval)
        if wait <= 0:
            for path in remove_unfinished(folder):
                progress.say(f"removed {path.name}: the export that wrote it broke off")
            try:
                done = await export()
                tried, wait = True, _LOOK
            except (StoreError, ChainError, OSError) as error:
                if not tried:
                    raise
                progress.say(f"the snapshot failed, the next attempt is in {_RETRY:.0f} s: {error}")
                done, wait = None, _RETRY
            if done is not None:
                progress.say(f"{done.path.name}: {done.objects:,} objects, {done.size:,} bytes, {done.seconds:.0f} s")
                for path in remove_old(folder, keep) if keep else []:
                    progress.say(f"removed {path.name}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait)


async def _wait(store: Store, folder: Path, interval: Interval) -> float:
    """Seconds until the next snapshot is due or may be; 0 or less: now."""
    made = finished_snapshots(folder)
    if not made:
        return 0.0
    height, newest = made[0]
    if interval.seconds:
        return min(newest.stat().st_mtime + interval.seconds - time.time(), 3600.0)
    entry = await store.head()
    return 0.0 if entry is not None and entry.head.height >= height + interval.epochs else _LOOK
