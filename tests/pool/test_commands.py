"""`follower index` and `follower worker` over a store with a chain that nobody has indexed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import pytest

from blockstore.lmdb.store import LmdbStore
from chain.index.coverage import covered
from chain.index.event_rows import EVENTS_INDEX
from follower.cli import main
from follower.commands.command import DONE, FAILED
from tests.pool.chain import pool_chain
from tests.pool.redis_server import RedisServer
from tests.support.processes import FollowerProcess, follower_process, run_follower

TOP = 40


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a chain from epoch 0 to TOP that nobody has indexed."""
    path = tmp_path / "store"

    async def make() -> None:
        store = await LmdbStore.open(path, map_size=1 << 30)
        await pool_chain(store, TOP, nulls={7, 8, 9})
        await store.close()

    asyncio.run(make())
    return f"lmdb://{path}"


def events_covered(url: str) -> list[tuple[int, int]]:
    async def read() -> list[tuple[int, int]]:
        store = await LmdbStore.open(Path(url.removeprefix("lmdb://")), readonly=True)
        try:
            return await covered(store, EVENTS_INDEX)
        finally:
            await store.close()

    return asyncio.run(read())


def gaps(url: str, *more: str) -> list[dict[str, object]]:
    done = run_follower("index", "find", *more, "--store", url, "--json")
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, object]] = orjson.loads(done.stdout)
    assert (done.returncode == 1) == bool(found)
    return found


def test_a_range_is_walked_here_and_claimed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    of_range = ["0", "39", "--store", url]
    assert main(["index", "find", *of_range]) == FAILED
    assert "37 epochs lack something" in capsys.readouterr().out
    assert main(["index", "walk", *of_range, "--here", "--claim"]) == DONE
    assert "0 of them lack something" in capsys.readouterr().out
    assert main(["index", "find", *of_range]) == DONE
    assert events_covered(url) == [(0, 39)]
    capsys.readouterr()
    assert main(["index", "status", "--store", url]) == DONE
    assert "0 to 39 (walk): messages, eth_hashes, events" in capsys.readouterr().out


def test_gaps_are_filled_here(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "fill", "3", "12", "--store", url, "--here", "--tasks", "messages"]) == DONE
    assert "7 epochs lacked something; 0 still do" in capsys.readouterr().out
    assert main(["index", "find", "3", "12", "--store", url, "--tasks", "messages", "--json"]) == DONE
    assert orjson.loads(capsys.readouterr().out) == []
    assert main(["index", "find", "12", "13", "--store", url, "--tasks", "messages", "--json"]) == FAILED
    assert orjson.loads(capsys.readouterr().out) == [{"height": 13, "tasks": ["messages"]}]


def test_what_cannot_run_says_so(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["index", "walk", "0", "9"], "there is no queue"),
        (["index", "walk", "9", "0", "--here"], "give FROM and TO"),
        (["index", "walk", "0", "9", "--here", "--tasks", "events,nothing"], "there is no task nothing"),
        (["index", "walk", "0", "9", "--claim"], "--claim goes with --here"),
        (["index", "find", "0", "99"], "the head is at epoch 40, below the end of the range, 99"),
        (["worker", "--redis", "redis://127.0.0.1:1/0", "--queues", "some"], "there is no class some"),
        (["worker", "--redis", "http://secret@here"], "must be redis://"),
    ):
        assert main([*arguments, "--store", url]) != DONE
        told = capsys.readouterr().err
        assert said in told
        assert "secret" not in told


def wait_until_done(url: str, worker: FollowerProcess, *more: str) -> None:
    deadline = time.monotonic() + 120
    while gaps(url, *more):
        assert worker.process.poll() is None, worker.output()
        assert time.monotonic() < deadline, worker.output()


@pytest.mark.long
def test_a_worker_does_what_is_enqueued_and_what_a_lost_queue_has_forgotten(url: str, redis: RedisServer) -> None:
    queue = ("--redis", redis.url)
    done = run_follower("index", "walk", "0", "19", "--store", url, *queue)
    assert done.returncode == 0, done.stderr
    assert "2 jobs enqueued" in done.stdout
    with follower_process("worker", "--store", url, *queue, "--find-seconds", "0.5") as worker:
        wait_until_done(url, worker, "0", "19")
        assert run_follower("index", "walk", "0", "39", "--store", url, *queue).returncode == 0
        redis.empty()
        wait_until_done(url, worker)
        status = orjson.loads(run_follower("index", "status", "--store", url, *queue, "--json").stdout)
        assert [row["slots"] for row in status["workers"]] == [{"watch": 5, "fill": 3, "index": 1, "walk": 1}]
        assert set(status["queue"]) == {"watch", "fill", "index", "walk"}
        assert worker.stop() == 0
    assert "stopped" in worker.output()
    status = orjson.loads(run_follower("index", "status", "--store", url, "--json").stdout)
    assert status["workers"] == []
