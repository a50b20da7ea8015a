"""Followers over a real Cassandra with an object tier: equal answers, and hits that survive a restart and kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
import urllib.request
from pathlib import Path

import aiohttp
import orjson
import pytest

from leader_bridge.imports.importer import import_car
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.processes import FollowerProcess, follower_process, free_port
from tests.support.recorded import recorded

_OF_PEERS = re.compile(r'^follower_start_ahead_questions_total\{of="peers"\} ([0-9.e+]+)$', re.M)
_READS = re.compile(r'^follower_object_tier_reads_total\{tier="(\w+)"\} ([0-9.e+]+)$', re.M)


def questions() -> list[bytes]:
    calls = map(orjson.loads, recorded("mix.jsonl").read_bytes().splitlines())
    return [
        orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": call["method"], "params": call["params"]})
        for call in calls
        if call["method"] not in ("eth_call", "trace_block")
    ][:600]


async def answers(port: int) -> tuple[list[bytes], dict[str, float]]:
    """All answers, and what they were read from."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def ask(body: bytes) -> bytes:
            async with session.post("/rpc/v1", data=body) as response:
                return await response.read()

        found = [await ask(body) for body in questions()]
    return found, await reads_of(port)


async def reads_of(port: int) -> dict[str, float]:
    """What objects were read from so far."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        text = await response.text()
    return {tier: float(value) for tier, value in _READS.findall(text)}


def until_it_answers(port: int, running: FollowerProcess) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            asyncio.run(_reach(port))
            return
        except (OSError, aiohttp.ClientError):
            assert running.process.poll() is None, running.output()
            assert time.monotonic() < end, running.output()
            time.sleep(0.1)


async def _reach(port: int) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as response:
        await response.read()


def filled() -> str:
    """The URL of a keyspace with the recorded chain."""
    url = keyspace_url("follower_tier")

    async def fill() -> None:
        store = await emptied(url, delta_ms=200, epsilon_ms=50, every=True)
        await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
        await store.close()

    asyncio.run(fill())
    return url


def asked_of_peers(port: int) -> float:
    """How many questions of its peers a follower asked itself when it started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        found = _OF_PEERS.search(response.read().decode())
    assert found is not None
    return float(found[1])


@pytest.mark.long
@pytest.mark.recorded
def test_a_new_machine_is_as_warm_as_its_peer(tmp_path: Path) -> None:
    url = filled()
    secret = tmp_path / "secret"
    secret.write_text("the secret of these followers\n")
    first, second = free_port(), free_port()

    def follower(port: int, folder: str, *more: str) -> contextlib.AbstractContextManager[FollowerProcess]:
        listen = f"127.0.0.1:{port}"
        return follower_process("serve", "--store", url, "--listen", listen, "--object-tier-dir",
                                str(tmp_path / folder), "--object-peer-secret-file", str(secret), *more)  # fmt: skip

    # a machine of any speed is given the time
    peers = ("--object-peers", f"http://127.0.0.1:{first}", "--start-ahead-seconds", "120")
    with follower(first, "first", "--start-ahead-seconds", "0") as running:
        until_it_answers(first, running)
        expected, cold = asyncio.run(answers(first))
        assert cold["sources"] > 200
        with follower(second, "second", *peers) as new:
            until_it_answers(second, new)
            assert asked_of_peers(second) > 100
            before = asyncio.run(reads_of(second))
            found, after = asyncio.run(answers(second))
            assert found == expected
            assert after["sources"] - before["sources"] < 0.02 * cold["sources"]
            assert "the secret" not in new.output() and "eth_getB" not in new.output()
    # the same, with a peer that is gone
    with follower(second, "third", "--object-peers", f"http://127.0.0.1:{first}") as new:
        until_it_answers(second, new)
        assert asked_of_peers(second) == 0
        assert asyncio.run(answers(second))[0] == expected


@pytest.mark.long
@pytest.mark.recorded
def test_hits_survive_a_restart_and_kill_9(tmp_path: Path) -> None:
    url = filled()
    expected: list[bytes] = []
    first: dict[str, float] = {}
    for turn, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGTERM)):
        port = free_port()
        listen = f"127.0.0.1:{port}"
        # every answer is made of objects again: none is kept
        flags = ("--object-tier-dir", str(tmp_path / "tier"), "--answer-cache-mb", "0", "--object-cache-mb", "1",
                 "--start-ahead-seconds", "0")  # fmt: skip
        with follower_process("serve", "--store", url, "--listen", listen, *flags) as running:
            until_it_answers(port, running)
            found, reads = asyncio.run(answers(port))
            time.sleep(1)  # what was read is written within this time
            running.stop(how)
        if not turn:
            expected, first = found, reads
            assert first["sources"] > 200
            continue
        assert found == expected
        assert reads["disk"] >= 0.9 * (reads["disk"] + reads["sources"])
        assert reads["disk"] >= 0.9 * first["sources"]
