"""The objects on disk: within the limit, whole after kill -9, and never others than were asked for."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.cid import multihash_of
from blockstore.tier.disk import LEAST_BYTES, DiskTier
from tests.support.paths import ROOT


def made(rng: random.Random, count: int, sizes: tuple[int, ...] = (60, 300, 900, 4000)) -> dict[bytes, bytes]:
    objects = (rng.randbytes(rng.choice(sizes)) for _ in range(count))
    return {multihash_of(data): data for data in objects}


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[DiskTier]:
    opened = DiskTier(tmp_path, LEAST_BYTES)
    yield opened
    opened.close()


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.endswith("-shm"))


def test_what_was_written_is_read(tier: DiskTier) -> None:
    objects = made(random.Random(1), 200)
    tier.write(objects)
    unknown = multihash_of(b"unknown")
    found = tier.get_many([*objects, unknown])
    assert found == [*objects.values(), None]
    # again: nothing is held twice
    tier.write(objects)
    assert tier.count() == len(objects)


def test_the_limit_is_never_exceeded(tmp_path: Path) -> None:
    rng = random.Random(2)
    tier = DiskTier(tmp_path, LEAST_BYTES)
    most = 0
    newest: dict[bytes, bytes] = {}
    for _ in range(60):
        newest = made(rng, 60, (60, 300, 2000, 12_000, 60_000))
        tier.write(newest)
        most = max(most, on_disk(tmp_path))
    assert tier.evicted > 500
    assert most <= LEAST_BYTES
    # it is used, and what came last is there
    assert tier.used_bytes > LEAST_BYTES * 0.4
    assert sum(data is not None for data in tier.get_many(list(newest))) > 0.5 * len(newest)
    tier.close()
    assert on_disk(tmp_path) <= LEAST_BYTES


def test_what_is_used_often_stays(tmp_path: Path) -> None:
    rng = random.Random(3)
    clock = iter(range(1, 1 << 40, 1_000_000))
    tier = DiskTier(tmp_path, LEAST_BYTES, now=lambda: next(clock))
    hot, cold = made(rng, 200, (700,)), made(rng, 200, (700,))
    tier.write({**hot, **cold})
    for _ in range(80):
        tier.write(made(rng, 200, (700,)), [(key, 3) for key in hot])
    assert tier.evicted > 5000
    assert all(data is not None for data in tier.get_many(list(hot)))
    assert not any(tier.get_many(list(cold)))
    tier.close()


def test_an_object_above_the_ceiling_is_not_kept(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, LEAST_BYTES, object_bytes=1000)
    tier.write(objects := {multihash_of(data): data for data in (bytes(1000), bytes(1001))})
    assert [data is not None for data in tier.get_many(list(objects))] == [True, False]
    tier.close()


def test_contents_survive_a_restart(tmp_path: Path) -> None:
    objects = made(random.Random(4), 500)
    tier = DiskTier(tmp_path, LEAST_BYTES)
    tier.write(objects)
    tier.close()
    tier = DiskTier(tmp_path, LEAST_BYTES)
    assert tier.get_many(list(objects)) == list(objects.values())
    assert tier.dropped == 0
    tier.close()


_WRITER = """
import random, sys
from pathlib import Path
from blockstore.cid import multihash_of
from blockstore.tier.disk import LEAST_BYTES, DiskTier
tier = DiskTier(Path(sys.argv[1]), LEAST_BYTES)
rng = random.Random(int(sys.argv[2]))
while True:
    objects = [rng.randbytes(500) for _ in range(50)]
    tier.write({multihash_of(data): data for data in objects})
    for data in objects:
        print(multihash_of(data).hex())
    sys.stdout.flush()
"""


def test_kill_9_loses_nothing_that_was_written(tmp_path: Path) -> None:
    for turn in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(turn)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(400)]
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        written = [bytes.fromhex(line.decode()) for line in told if len(line.strip()) == 76]
        tier = DiskTier(tmp_path, LEAST_BYTES)
        assert tier.dropped == 0
        assert all(data is not None for data in tier.get_many(written[:4000]))
        tier.close()


def test_processes_share_one_file(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, LEAST_BYTES)
    child = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), "7"], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    rng = random.Random(8)
    own = made(rng, 300)
    try:
        for at in range(0, 300, 30):
            tier.write(dict(list(own.items())[at : at + 30]))
            others = [bytes.fromhex(child.stdout.readline().decode()) for _ in range(50)]
            assert all(data is not None for data in tier.get_many(others))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert tier.get_many(list(own)) == list(own.values())
    tier.close()


def _filled(folder: Path) -> dict[bytes, bytes]:
    objects = made(random.Random(5), 300, (300, 900))
    tier = DiskTier(folder, LEAST_BYTES)
    tier.write(objects)
    tier.close()
    return objects


def test_entries_that_are_short_or_without_bookkeeping_are_dropped(tmp_path: Path) -> None:
    objects = _filled(tmp_path)
    with sqlite3.connect(tmp_path / "objects.sqlite") as sql:
        sql.execute("UPDATE objects SET data = substr(data, 1, 10) WHERE id % 10 = 0")
        sql.execute("DELETE FROM uses WHERE id % 10 = 1")
        sql.execute("DELETE FROM objects WHERE id % 10 = 2")
    sql.close()
    tier = DiskTier(tmp_path, LEAST_BYTES)
    assert tier.dropped == 90
    found = tier.get_many(list(objects))
    assert sum(data is not None for data in found) == 210
    assert all(data in (None, objects[key]) for key, data in zip(objects, found, strict=True))
    tier.close()


def test_an_object_with_other_bytes_is_not_answered_and_is_replaced(tmp_path: Path) -> None:
    objects = _filled(tmp_path)
    with sqlite3.connect(tmp_path / "objects.sqlite") as sql:
        sql.execute("UPDATE objects SET data = zeroblob(length(data)) WHERE id <= 20")
    sql.close()
    tier = DiskTier(tmp_path, LEAST_BYTES)
    assert sum(data is None for data in tier.get_many(list(objects))) == 20
    assert tier.damaged == 20
    tier.write(objects)
    assert tier.get_many(list(objects)) == list(objects.values())
    tier.close()


@pytest.mark.parametrize("damage", ["foreign", "no database", "half", "version", "marked", "too large"])
def test_a_file_that_is_not_ours_is_dropped(tmp_path: Path, damage: str) -> None:
    objects = _filled(tmp_path)
    path = tmp_path / "objects.sqlite"
    limit = LEAST_BYTES
    if damage == "foreign":
        path.unlink()
        with sqlite3.connect(path) as sql:
            sql.execute("CREATE TABLE objects (id INTEGER PRIMARY KEY, data TEXT)")
        sql.close()
    elif damage == "no database":
        path.write_bytes(b"not a database at all " * 1000)
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "version":
        with sqlite3.connect(path) as sql:
            sql.execute("PRAGMA user_version = 99")
        sql.close()
    elif damage == "marked":
        (tmp_path / "objects.bad").touch()
    else:
        path.write_bytes(path.read_bytes() + bytes(LEAST_BYTES))
    tier = DiskTier(tmp_path, limit)
    found = tier.get_many(list(objects))
    assert all(data in (None, objects[key]) for key, data in zip(objects, found, strict=True))
    if damage != "half":
        assert not any(found)
    tier.write(objects)
    assert tier.get_many(list(objects)) == list(objects.values())
    tier.close()


def test_damage_while_it_is_open_costs_requests_and_no_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects = _filled(tmp_path)
    tier = DiskTier(tmp_path, LEAST_BYTES)
    path = tmp_path / "objects.sqlite"
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    assert not any(tier.get_many(list(objects)))
    tier.write(made(random.Random(6), 50))
    tier.close()
    assert "does not work, so more is fetched" in caplog.text
    began = time.monotonic()
    tier = DiskTier(tmp_path, LEAST_BYTES)
    tier.write(objects)
    assert tier.get_many(list(objects)) == list(objects.values())
    tier.close()
    assert time.monotonic() - began < 30
