"""Followers over a real Cassandra with an object tier: equal answers, and hits that survive a restart and kill -9."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path

import aiohttp
import orjson
import pytest

from leader_bridge.imports.importer import import_car
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.processes import FollowerProcess, follower_process, free_port
from tests.support.recorded import recorded

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
        async with session.get("/metrics") as response:
            text = await response.text()
    return found, {tier: float(value) for tier, value in _READS.findall(text)}


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


@pytest.mark.long
@pytest.mark.recorded
def test_hits_survive_a_restart_and_kill_9(tmp_path: Path) -> None:
    url = keyspace_url("follower_tier")

    async def fill() -> None:
        store = await emptied(url, delta_ms=200, epsilon_ms=50, every=True)
        await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
        await store.close()

    asyncio.run(fill())
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
