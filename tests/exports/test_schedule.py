"""Snapshots on a schedule: when they are due, which are kept, and what a broken one leaves."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from blockstore.car.snapshot_forms import Form
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry, TipsetRef
from chain.errors import BadRequest, NotHeld
from chain.tipset import TipsetKey
from leader_bridge.exports.exporter import ExportReport, export_snapshot
from leader_bridge.exports.schedule import (
    Interval,
    export_on_schedule,
    finished_snapshots,
    parse_interval,
    remove_old,
    remove_unfinished,
    snapshot_name,
)
from leader_bridge.exports.scope import snapshot_scope
from tests.support.virtual_time import run_virtual

MadeStore = Callable[[], Awaitable[MemoryStore]]


def test_intervals() -> None:
    assert parse_interval("12h") == Interval(seconds=12 * 3600)
    assert parse_interval("90m") == Interval(seconds=5400)
    assert parse_interval("1d") == Interval(seconds=86400)
    assert parse_interval("2880") == parse_interval("2880 epochs") == Interval(epochs=2880)
    for wrong in ("", "0", "0h", "-5", "1w", "h", "1.5h"):
        with pytest.raises(BadRequest, match="no interval"):
            parse_interval(wrong)


def put(folder: Path, height: int) -> Path:
    path = folder / f"snapshot_made_2026-01-02_height_{height}.forest.car.zst"
    path.write_bytes(b"x")
    path.with_name(path.name + ".sha256sum").write_text("x")
    return path


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    files = [put(tmp_path, height) for height in (999, 1000, 2000, 30)]
    others = [tmp_path / "notes.txt", tmp_path / "snapshot.car", tmp_path / "forest_snapshot_height_5.car"]
    for other in others:
        other.write_text("mine")
    assert [height for height, _ in finished_snapshots(tmp_path)] == [2000, 1000, 999, 30]
    assert remove_old(tmp_path, 2) == [files[0], files[3]]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name + end for path in files[1:3] for end in ("", ".sha256sum")} | {o.name for o in others}


def test_what_a_killed_export_left_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    names = [f"snapshot_made_2026-01-02_height_{height}.car.zst.tmp" for height in (1, 2)]
    for name in [*names, "download.tmp"]:
        (tmp_path / name).write_bytes(b"half")
    with (tmp_path / names[1]).open("ab") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert remove_unfinished(tmp_path) == [tmp_path / names[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download.tmp", names[1]]


class Told:
    """Keeps what a schedule says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def phase(self, what: str, total: int | None, unit: str) -> None:
        return

    def at(self, done: int, note: str = "") -> None:
        return

    def say(self, text: str) -> None:
        self.lines.append(text)

    def end(self) -> None:
        return


class Growing(MemoryStore):
    """A store whose head is at an epoch that the test sets."""

    height = 0

    async def head(self) -> HeadEntry | None:
        ref = TipsetRef(self.height, b"")
        return HeadEntry(1, 1, (), (ref,), ref)


def scheduled(
    folder: Path, interval: Interval, heads: list[int], *, keep: int = 0, fails: tuple[int, ...] = ()
) -> tuple[list[tuple[float, int]], list[str]]:
    """Run a schedule while the head moves to one epoch after another, one a minute; (seconds, epoch) of the exports."""

    async def work() -> tuple[list[tuple[float, int]], list[str]]:
        store, told, stop = Growing(), Told(), asyncio.Event()
        loop = asyncio.get_running_loop()
        made: list[tuple[float, int]] = []

        async def export() -> ExportReport | None:
            if store.height in fails:
                raise NotHeld(f"the state at epoch {store.height}")
            made.append((loop.time(), store.height))
            path = put(folder, store.height)
            return ExportReport(path, TipsetKey(), store.height, 1, 1, "", 0.0)

        store.height = heads[0]
        running = asyncio.create_task(
            export_on_schedule(store, folder, interval, export, stop, keep=keep, progress=told)
        )
        for height in heads:
            store.height = height
            await asyncio.sleep(60)
        stop.set()
        await running
        return made, told.lines

    return run_virtual(work())


def test_epochs_between_snapshots(tmp_path: Path) -> None:
    made, _ = scheduled(tmp_path, Interval(epochs=10), [100, 105, 109, 110, 111, 125], keep=2)
    assert [height for _, height in made] == [100, 110, 125]
    # at most a look after the head has come so far
    assert [seconds - minute * 60 for (seconds, _), minute in zip(made, (0, 3, 5), strict=True)] <= [5.0] * 3
    assert [height for height, _ in finished_snapshots(tmp_path)] == [125, 110]
    # a schedule that begins again goes on where it was
    made, _ = scheduled(tmp_path, Interval(epochs=10), [126, 134, 135])
    assert [height for _, height in made] == [135]


def test_time_between_snapshots(tmp_path: Path) -> None:
    old = put(tmp_path, 50)
    os.utime(old, (time.time() - 3500, time.time() - 3500))
    made, _ = scheduled(tmp_path, Interval(seconds=3600), [100, 101, 102])
    # the clock of files stands still here: what is due in 100 seconds is not made before
    assert [height for _, height in made] == []
    os.utime(old, (time.time() - 3601, time.time() - 3601))
    made, _ = scheduled(tmp_path, Interval(seconds=3600), [100, 101, 102])
    assert [height for _, height in made] == [100]


def test_a_failure_is_said_and_tried_again_but_the_first_one_ends_it(tmp_path: Path) -> None:
    made, told = scheduled(tmp_path, Interval(epochs=1), [1, 2, 3, 4], fails=(2, 3))
    assert [height for _, height in made] == [1, 4]
    assert any("the state at epoch 2" in line and "next attempt" in line for line in told)
    with pytest.raises(NotHeld):
        scheduled(tmp_path / "..", Interval(epochs=1), [9, 10], fails=(9,))


async def test_a_snapshots_name_tells_network_day_and_epoch(made_store: MadeStore, tmp_path: Path) -> None:
    store = await made_store()
    scope = await snapshot_scope(store, state_roots=1000, lowest=1)
    name = await snapshot_name(store, scope.head, Form.ZSTD)
    assert name == f"snapshot_made_2023-11-14_height_{scope.head.height}.car.zst"
    await export_snapshot(store, tmp_path / name, scope)
    assert finished_snapshots(tmp_path) == [(scope.head.height, tmp_path / name)]
