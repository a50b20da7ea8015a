"""A thousand calls that cost the virtual machine as much as they can, beside honest ones and a witness."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attack import server
from tests.attack.cases import _some_sender
from tests.attack.hostile_code import eth_request, hostile_calls, numbered
from tests.attack.run import MAX_EXECUTOR_BYTES
from tests.attack.wire import ATTACKER, Peer, post
from tests.support.paths import ROOT

#: connections that send hostile calls, of which a follower takes some at a time
PEERS = 8
#: seconds for one call, with what runs before it, on a busy machine
ANSWER_SECONDS = 300.0
#: the address of the client whose calls are honest
HONEST = "127.0.0.4"
#: seconds between two honest calls
HONEST_PACE = 0.2
_UNAVAILABLE = -32002
_LIMIT_EXCEEDED = -32005
#: what a call that was not taken on is told, and one whose executor has gone
_TRY_AGAIN = ("too many", "too much", "try again", "does not answer")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses several loopback addresses")


async def executed(port: int, count: int, kill: Callable[[], None] | None) -> Counter[str]:
    """Have so many hostile calls executed; what they answered. `kill` is called in the middle."""
    request = hostile_calls(*await _some_sender(port))
    numbers = iter(range(count))
    seen: Counter[str] = Counter()

    async def peer() -> None:
        connection = await Peer.connect(port, ATTACKER, limit=1 << 24)
        for number in numbers:
            if number == count // 2 and kill is not None:
                kill()
            body = post(request(number))
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, answer = await connection.ask(body)
                if status not in (429, 503) and not _is_refused(_parsed(answer)):
                    break
                await asyncio.sleep(0.05)
            seen[_kind(_parsed(answer))] += 1
        connection.drop()

    await asyncio.gather(*(peer() for _ in range(PEERS)))
    return seen


def _parsed(answer: bytes) -> dict[str, Any]:
    """An answer; a result without its content, for traces nest deeper than the decoder goes."""
    if b'"result":' in answer[:64]:
        return {"result": None}
    found: dict[str, Any] = json.loads(answer)
    return found


def _is_refused(answer: dict[str, Any]) -> bool:
    """Whether the call was not executed."""
    return any(text in answer.get("error", {}).get("message", "") for text in _TRY_AGAIN)


def _kind(answer: dict[str, Any]) -> str:
    return "a result" if "result" in answer else f"error {answer['error']['code']}"


async def honest(port: int, ended: asyncio.Event) -> Counter[str]:
    """Calls that return nothing, each of them new: what they answered."""
    seen: Counter[str] = Counter()
    connection = await Peer.connect(port, HONEST)
    for number in itertools.count(1 << 32):
        if ended.is_set():
            connection.drop()
            return seen
        async with asyncio.timeout(ANSWER_SECONDS):
            status, body = await connection.ask(post(eth_request("eth_call", numbered("00", number))))
        answer = json.loads(body)
        if answer.get("result") == "0x":
            seen["right"] += 1
        elif status in (429, 503) or answer.get("error", {}).get("code") in (_UNAVAILABLE, _LIMIT_EXCEEDED):
            seen["none"] += 1
        else:
            seen[f"wrong: {body[:200]!r}"] += 1
        await asyncio.sleep(HONEST_PACE)
    raise AssertionError


async def attacked(port: int, count: int, kill: Callable[[], None] | None) -> tuple[Counter[str], Counter[str]]:
    """(what hostile calls answered, what honest ones did)."""
    ended = asyncio.Event()
    honestly = asyncio.create_task(honest(port, ended))
    try:
        hostile = await executed(port, count, kill)
    finally:
        ended.set()
    return hostile, await honestly


def executor_of(pid: int) -> int:
    """The process id of the executor of a follower."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = (one for one in children if b"\0execute\0" in Path(f"/proc/{one}/cmdline").read_bytes())
    return int(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield server.recorded_store(tmp_path_factory.mktemp("hostile") / "store")


@pytest.mark.recorded
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("count", "kills"),
    [(20, False), pytest.param(1000, False, marks=pytest.mark.long), pytest.param(200, True, marks=pytest.mark.long)],
)
async def test_hostile_calls_end_and_harm_nobody(count: int, kills: bool, store: str, tmp_path: Path) -> None:
    pytest.importorskip("lotus_follower_execution", reason="the virtual machine is not installed (make execution)")
    with server.served(store, tmp_path, "--execution", "on") as follower:
        await asyncio.to_thread(server.wait_until_it_executes, follower)
        before = executor_of(follower.pid)
        watching = [sys.executable, "-m", "tests.attack.witness", str(follower.port)]
        # the witness watches for as long as the short form takes, at most
        witness = subprocess.Popen([*watching, str(count / 6)], cwd=ROOT, stdout=subprocess.PIPE)
        began = time.monotonic()
        with server.PeakOfChildren(follower.pid) as peak:
            kill = (lambda: os.kill(before, signal.SIGKILL)) if kills else None
            hostile, honestly = await attacked(follower.port, count, kill)
        seconds = time.monotonic() - began
        report = json.loads((await asyncio.to_thread(witness.communicate))[0])
        if not kills:
            assert executor_of(follower.pid) == before, "the executor has ended"
    times = f"ChainHead p50 {report['p50'] * 1e3:.1f} ms, p99 {report['p99'] * 1e3:.1f} ms"
    print(
        f"{count} in {seconds:.0f} s, executor {peak.peak_bytes >> 20} MiB; {times}; {dict(hostile)}; {dict(honestly)}"
    )
    assert hostile.total() == count
    assert report["failed"] == 0
    assert not [kind for kind in honestly if kind.startswith("wrong")]
    assert honestly["right"] > 0
    assert peak.peak_bytes < MAX_EXECUTOR_BYTES
    # by the machine, and by the bounds
    assert {"error 3", f"error {_LIMIT_EXCEEDED}"} <= set(hostile)
    assert not hostile[f"error {_UNAVAILABLE}"]
