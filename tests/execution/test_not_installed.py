"""A machine without the virtual machine: all works as before, without a warning, and calls say what to install."""

from __future__ import annotations

import asyncio
import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from follower.executor.child import MODULE
from tests.execution.machine import import_recorded
from tests.execution.test_executor_process import Rpc, rpc
from tests.support.paths import ROOT
from tests.support.processes import FollowerProcess, follower_process, free_port, run_follower

_NEEDS_NODE = -32010
#: a line of the log that wants somebody's attention
_WARNING = re.compile(r" (WARNING|ERROR|CRITICAL) |Warning:|Traceback")


@pytest.fixture
def hidden(tmp_path: Path) -> dict[str, str]:
    """An environment in which the extension is not installed, whether or not it is."""
    folder = tmp_path / "hides"
    folder.mkdir()
    # the interpreter reads this file at its start
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{MODULE!r}] = None\n")
    paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    # no cargo either; `auto` is the default
    return {"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", "FOLLOWER_EXECUTION": "auto"}


async def first_answer(client: Rpc, follower: FollowerProcess, method: str, *params: Any) -> dict[str, Any]:
    end = time.monotonic() + 120
    while True:
        try:
            return await client.ask(method, *params)
        except aiohttp.ClientError:
            assert follower.process.poll() is None, follower.output()
            assert time.monotonic() < end, follower.output()
            await asyncio.sleep(0.1)


def assert_says_what_to_install(answer: dict[str, Any]) -> None:
    assert answer["error"]["code"] == _NEEDS_NODE
    assert "make execution" in answer["error"]["message"]
    assert "pip install lotus-follower[execution]" in answer["error"]["message"]


async def test_make_run_works_as_before(hidden: dict[str, str]) -> None:
    """`make run` is `follower up`; with no node it follows a simulated one."""
    port = free_port()
    with follower_process("up", "--listen", f"127.0.0.1:{port}", environment=hidden) as follower:
        async with rpc(port) as client:
            assert "result" in await first_answer(client, follower, "Filecoin.ChainHead")
            # the genesis is no state to call on
            async with asyncio.timeout(60):
                while int((await client.ask("eth_blockNumber")).get("result", "0x0"), 16) < 2:
                    await asyncio.sleep(0.1)
            assert_says_what_to_install(await client.call(1))
        assert follower.stop() == 0
    assert not _WARNING.search(follower.output()), follower.output()
    assert "execut" not in follower.output()


@pytest.mark.recorded
async def test_a_follower_says_what_to_install(hidden: dict[str, str], tmp_path: Path) -> None:
    url = await asyncio.to_thread(import_recorded, "devnet", tmp_path)
    port = free_port()
    arguments = ("serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--ready-head-age-epochs", "0")
    with follower_process(*arguments, environment=hidden) as follower:
        async with rpc(port) as client:
            assert "result" in await first_answer(client, follower, "Filecoin.ChainHead")
            assert_says_what_to_install(await client.call(1))
            assert_says_what_to_install(await client.ask("eth_estimateGas", {"to": None, "data": "0x00"}))
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as ready:
                assert ready.status == 200
        assert follower.stop() == 0
    assert not _WARNING.search(follower.output()), follower.output()


@pytest.mark.recorded
def test_what_was_asked_for_and_cannot_be_done_says_what_to_install(hidden: dict[str, str], tmp_path: Path) -> None:
    url = import_recorded("devnet", tmp_path)
    node = ("--node", "http://127.0.0.1:1/rpc/v1")
    for arguments in (
        ("backfill",),
        ("bridge", *node, "--verify", "all"),
        ("bridge", *node, "--execution-backfill", "on"),
    ):
        done = run_follower(*arguments, "--store", url, environment=hidden)
        assert done.returncode == 2, done.stderr
        assert "make execution" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_extra_names_the_distribution() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["execution"]
    built = tomllib.loads((ROOT / "execution" / "pyproject.toml").read_text())["project"]
    version = tomllib.loads((ROOT / "execution" / "Cargo.toml").read_text())["package"]["version"]
    low, high = (tuple(map(int, part.split("."))) for part in re.findall(r"[\d.]+", extra[0]))
    assert extra[0].startswith(built["name"] + ">=")
    assert low <= tuple(map(int, version.split("."))) < high
