"""The executor as a real process, beside a real follower: killed, overrun, sent garbage, not installed."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from follower.executor.child import MODULE
from follower.executor.wire import frame, read_frame
from tests.execution.machine import import_recorded, require_machine
from tests.support.processes import FollowerProcess, follower_process, free_port, run_follower

#: seconds for the actors' code to be compiled on a busy machine
_READY_SECONDS = 300.0
_UNAVAILABLE = -32002
_NEEDS_NODE = -32010


class Rpc:
    """A client of one follower."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._fresh = itertools.count(1 << 40)
        self._url = f"http://127.0.0.1:{port}/rpc/v1"

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """The whole answer. Errors: aiohttp.ClientError."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        async with self._session.post(self._url, data=body) as answer:
            found: dict[str, Any] = orjson.loads(await answer.read())
            return found

    async def call(self, number: int) -> dict[str, Any]:
        """`eth_call` of init code whose only effect is to end; each number is another message."""
        data = "0x" + "5b" * 8 + "00" + number.to_bytes(8, "big").hex()
        return await self.ask("eth_call", {"to": None, "data": data}, "latest")

    async def metric(self, name: str) -> float:
        """A number of /metrics."""
        async with self._session.get(self._url.replace("/rpc/v1", "/metrics")) as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        raise LookupError(name)

    async def until_it_executes(self, follower: FollowerProcess, *, seconds: float = _READY_SECONDS) -> None:
        """Wait for a first result."""
        end = time.monotonic() + seconds
        while "result" not in (answer := await self._try()):
            assert follower.process.poll() is None, follower.output()
            assert time.monotonic() < end, f"{answer}\n{follower.output()}"
            await asyncio.sleep(0.25)

    async def _try(self) -> dict[str, Any]:
        try:
            # answers are kept: only a call that was never made is executed
            return await self.call(next(self._fresh))
        except aiohttp.ClientError as error:
            return {"error": str(error)}


@asynccontextmanager
async def rpc(port: int) -> AsyncIterator[Rpc]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_READY_SECONDS)) as session:
        yield Rpc(session, port)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return import_recorded("devnet", tmp_path_factory.mktemp("executor"))


def executor_of(follower: FollowerProcess) -> int:
    """The process id of a follower's executor."""
    found = executors_of(follower)
    assert len(found) == 1, follower.output()
    return found[0]


def executors_of(follower: FollowerProcess) -> list[int]:
    """The process ids of its children that execute."""
    children = Path(f"/proc/{follower.process.pid}/task/{follower.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"execute" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


async def wrong_answers(client: Rpc, numbers: range) -> tuple[int, int, list[Any]]:
    """Ask all at once: (right answers, "does not answer" errors, what is neither)."""
    return await answers_with(client, numbers, -1, lambda: None)


async def answers_with(client: Rpc, numbers: range, after: int, then: Callable[[], None]) -> tuple[int, int, list[Any]]:
    """As `wrong_answers`; `then` is called after so many answers."""
    right = unavailable = 0
    wrong = []
    for one in asyncio.as_completed([client.call(number) for number in numbers]):
        answer = await one
        if answer.get("result") == "0x":
            right += 1
        elif answer.get("error", {}).get("code") == _UNAVAILABLE:
            unavailable += 1
        else:
            wrong.append(answer)
        if right + unavailable + len(wrong) == after:
            then()
    return right, unavailable, wrong


async def frames_to(path: Path, data: bytes) -> list[Any]:
    """What the executor answers to bytes, until it closes the connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    answers = []
    try:
        async with asyncio.timeout(30):
            while True:
                answers.append(await read_frame(reader))
    except (asyncio.IncompleteReadError, ConnectionError):
        return answers
    finally:
        writer.close()


def priorities_of(pid: int) -> list[int]:
    """The nice value of each thread of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int((one / "stat").read_text().rpartition(")")[2].split()[16]) for one in threads]


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_what_compiles_leaves_the_cores_to_what_answers(store: str) -> None:
    require_machine()
    port = free_port()
    arguments = ("serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--execution", "on")
    with follower_process(*arguments) as follower:
        end = time.monotonic() + _READY_SECONDS
        while not executors_of(follower) or max(found := priorities_of(pid := executor_of(follower))) < 10:
            assert time.monotonic() < end, follower.output()
            await asyncio.sleep(0.02)
        assert min(found) == 5, "what it executes with is not at the compiler's priority"
        # Linux may share the cores among sessions first: in another one, the priority would mean nothing
        assert os.getsid(pid) == os.getsid(follower.process.pid)
        assert os.getpgid(pid) != os.getpgid(follower.process.pid), "Ctrl-C is the parent's"


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_a_killed_executor_costs_answers_but_makes_none_wrong(store: str) -> None:
    """One run of the process: garbage on its socket, calls in concurrency, kill -9 among them, its restart."""
    require_machine()
    port = free_port()
    arguments = ("serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--execution", "on")
    with follower_process(*arguments, "--execution-queue", "64") as follower:
        async with rpc(port) as client:
            await client.until_it_executes(follower)
            pid = executor_of(follower)

            # garbage ends its own connection, and nothing else
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            path = next(one for one in environment if one.startswith(b"FOLLOWER_EXECUTOR_SOCKET="))
            socket = Path(path.partition(b"=")[2].decode())
            assert socket.stat().st_mode & 0o077 == 0
            for garbage in (
                b"\xff" * 64,
                (4).to_bytes(4, "big") + b"\xff\xff\xff\xff",
                frame("no request"),
                frame([1, "fly", []]),
                frame([1, "run", [[], [], False, False]]),
                frame([1, "run", None]),
                frame([1, "get", [7]]),
            ):
                assert await frames_to(socket, garbage) == []
            assert await wrong_answers(client, range(1, 20)) == (19, 0, [])
            assert executor_of(follower) == pid
            assert await client.metric("follower_executions_total") >= 19

            # killed in the middle: right answers or none
            right, unavailable, wrong = await answers_with(client, range(100, 400), 20, partial(os.kill, pid, 9))
            assert not wrong
            assert right >= 20
            assert right + unavailable == 300
            assert unavailable > 0
            assert (await client.ask("Filecoin.ChainHead"))["result"]["Height"] > 0

            # and right ones again
            await client.until_it_executes(follower)
            assert executor_of(follower) != pid
            assert await wrong_answers(client, range(400, 420)) == (20, 0, [])
            assert await client.metric("follower_executor_lost_total") >= 1
            assert await client.metric("follower_executions_unavailable_total") >= unavailable
        assert follower.stop() == 0


@pytest.mark.recorded
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_full_queue_is_an_error_that_says_try_again(store: str, tmp_path: Path) -> None:
    """`follower execute` apart, with one thread and a queue of two: runs beyond them are refused at once."""
    require_machine()
    port, socket = free_port(), tmp_path / "executor.sock"
    common = ("--store", store, "--executor-socket", str(socket))
    with (
        follower_process("execute", *common, "--execution-threads", "1", "--execution-queue", "2") as executor,
        follower_process("serve", *common, "--listen", f"127.0.0.1:{port}") as follower,
    ):
        async with rpc(port) as client:
            await client.until_it_executes(follower)
            right, unavailable, wrong = await wrong_answers(client, range(1, 60))
            assert not wrong
            assert right >= 3
            assert unavailable > 0
            assert await wrong_answers(client, range(60, 61)) == (1, 0, [])
        assert follower.stop() == 0
        assert executor.stop() == 0
        assert not socket.exists()


@pytest.mark.recorded
async def test_without_the_machine_a_call_says_what_to_install(store: str) -> None:
    port = free_port()
    arguments = ("serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--execution", "off")
    with follower_process(*arguments) as follower:
        async with rpc(port) as client:
            end = time.monotonic() + 60
            while True:
                try:
                    error = (await client.call(1))["error"]
                    break
                except aiohttp.ClientError:
                    assert time.monotonic() < end, follower.output()
                    await asyncio.sleep(0.1)
            assert error["code"] == _NEEDS_NODE
            assert "--node" in error["message"]
            assert "make execution" in error["message"]
            error = (await client.ask("Filecoin.MpoolPending", []))["error"]
            assert "make execution" not in error["message"]


@pytest.mark.recorded
@pytest.mark.parametrize("command", ["serve", "execute"])
def test_execution_on_without_the_machine_cannot_run(command: str, store: str, tmp_path: Path) -> None:
    # the interpreter reads this file at its start: it hides the module, installed or not
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{MODULE!r}] = None\n")
    more = ("--execution", "on") if command == "serve" else ("--executor-socket", str(tmp_path / "s"))
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_follower(command, "--store", store, *more, environment={"PYTHONPATH": paths})
    assert done.returncode == 2, done.stderr
    assert "make execution" in done.stderr
