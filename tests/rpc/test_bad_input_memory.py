"""What large and unfinished requests take in a real process, which is set to take bodies of 100 MiB."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.http_raw import RawClient, post, request
from tests.support.paths import ROOT
from tests.support.wire_server import ECHO, call, soon

MIB = 1 << 20

_SERVER = """
import asyncio, sys, uvloop
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services
from rpc.server.limits import ServerSettings
from rpc.server.server import serve

async def main():
    settings = ServerSettings(max_body_bytes=100 << 20)
    server = await serve(services(), "127.0.0.1", 0, registry=make_registry(), settings=settings)
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(1)

uvloop.run(main())
"""


@dataclass
class Process:
    """A server in a process of its own."""

    pid: int
    port: int

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak(self) -> int:
        """The most resident bytes so far."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) << 10


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to see a process' memory")
    root = ROOT
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        yield Process(child.pid, int(child.stdout.readline()))
        child.communicate(timeout=20)
    assert child.returncode == 0


async def test_hundred_mebibytes_in_one_string(process: Process) -> None:
    answer = await soon(post(process.port, call("Test.Add", "x" * (99 * MIB), 1)))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, -32700)
    assert process.peak() < 700 * MIB
    assert (await soon(post(process.port, ECHO % (1, 1)))).status == 200


async def test_hundred_mebibytes_of_small_values(process: Process) -> None:
    """What would be gigabytes of Python objects is refused before it is parsed."""
    answer = await soon(post(process.port, b"[" + b"[]," * (33 * MIB) + b"[]]"))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, -32700)
    assert process.peak() < 700 * MIB


async def test_more_than_is_allowed_is_not_even_read(process: Process) -> None:
    before = process.rss()
    client = await RawClient.connect(process.port)
    await client.send(request(b"", headers={"X": "y"}).replace(b"Content-Length: 0", b"Content-Length: 99999999999"))
    answer = await soon(client.answer())
    assert answer.status == 500
    assert "bigger than maximum" in json.loads(answer.body)["error"]["message"]
    await client.close()
    assert process.rss() < before + 64 * MIB


async def test_many_half_open_connections(process: Process) -> None:
    """Five hundred peers that each say they will send 100 MiB and send a little."""
    before = process.rss()
    part = request(b"", headers={}).replace(b"Content-Length: 0", b"Content-Length: 104857600") + b"[" * 1000
    clients = await asyncio.gather(*(RawClient.connect(process.port) for _ in range(500)))
    for client in clients:
        await client.send(part)
    assert (await soon(post(process.port, ECHO % (1, 1)))).status == 200
    assert process.rss() < before + 64 * MIB
    for client in clients:
        client.writer.transport.abort()


async def test_batches_over_and_over(process: Process) -> None:
    body = b"[" + b",".join(ECHO % (i, i) for i in range(10_000)) + b"]"
    for _ in range(3):
        await soon(post(process.port, body))
    before = process.rss()
    for _ in range(8):
        assert len(json.loads((await soon(post(process.port, body))).body)) == 10_000
    assert process.rss() < before + 32 * MIB
