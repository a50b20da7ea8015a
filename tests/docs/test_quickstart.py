"""docs/quickstart.md works as it is written: on a recorded chain, and on calibnet's real genesis and schedule."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from chain.known_networks import CALIBNET
from devnode.replay import ReplayNode, start_replay
from tests.docs.machines import Machines, Running, required_tools
from tests.docs.pages import json_answers, read_blocks
from tests.support.paths import ROOT
from tests.support.proxies import free_port
from tests.support.recorded import recorded

PAGE: Final = ROOT / "docs" / "quickstart.md"
ENDPOINT: Final = "https://api.calibration.node.glif.io/rpc/v1"
#: by heading: what takes the place of the blocks that need the internet
INSTEAD: Final = {
    "Start": "the folder has the Makefile of this checkout and its installed environment; a recorded chain is followed",
}


@contextlib.asynccontextmanager
async def machine(node: ReplayNode, settings: dict[str, str]) -> AsyncIterator[Machines]:
    """The folder `lotus-follower` after the first block, with `node` in the endpoint's place."""
    required_tools("bash", "curl", "make")
    listen = f"127.0.0.1:{free_port()}"
    settings = {"FOLLOWER_LISTEN": listen, "FOLLOWER_READY_HEAD_AGE_EPOCHS": "0", **settings}
    machines = Machines({"here": "10.0.0.1"}, settings, {ENDPOINT: node.url, "127.0.0.1:1234": listen})
    try:
        machines.path("here", "Makefile").symlink_to(ROOT / "Makefile")
        machines.path("here", ".venv").symlink_to(sys.prefix)
        # the environment is this one: it must not be made again
        machines.command("make", f'exec {_real("make")} -o .venv/.ready -o .venv/.runnable "$@"')
        yield machines
    finally:
        machines.close()


def _real(command: str) -> str:
    (found, *_) = (f"{folder}/{command}" for folder in os.environ["PATH"].split(":") if Path(folder, command).exists())
    return found


async def walk_through(machines: Machines) -> tuple[str, Running]:
    """Run the page; what its blocks printed, and the block that ran until Ctrl-C."""
    printed = ""
    running: Running | None = None
    for block in read_blocks(PAGE):
        if not block.is_shell:
            continue
        if block.needs:
            print(f"{block.place} needs {block.needs}. Instead: {INSTEAD[block.heading]}")
        if block.runs_on:
            running = await machines.begin(block, "here")
            await running.says("ready after")
        elif not block.needs:
            if block.stops:
                assert running is not None
                # make tells that it was interrupted
                assert await running.interrupt() in (2, 130, -2), running.printed
            print(f"{block.place} {block.heading}")
            printed += await machines.run(block)
    assert running is not None
    return printed, running


def judge(running: Running, machines: Machines) -> None:
    """What a new user reads: what is followed, where the store is, where it listens; and no warning."""
    said = running.printed
    for word in ("follows", "store    lmdb://data/store, state = lazy", "serves", "status", "ready after"):
        assert word in said, said
    assert not re.search(r"WARNING|ERROR|Traceback", said), said
    left = machines.path("here", "data/store")
    assert not left.exists(), f"{list(left.iterdir())}\n{said}"


@pytest.mark.recorded
async def test_it_works_on_a_recorded_chain() -> None:
    folder = recorded("devnet/chain.car.zst").parent
    node = await start_replay(folder, at_end=True)
    try:
        settings = {"FOLLOWER_NETWORK_FILE": str(folder / "network.json"), "FOLLOWER_BACKFILL_EPOCHS": "20"}
        async with machine(node, settings) as machines:
            printed, running = await walk_through(machines)
            judge(running, machines)
    finally:
        await node.stop()
    head, name, chain_id, actor = json_answers(printed)[:4]
    assert head["result"]["Height"] == node.head.height
    assert name["result"] == node.network.name
    assert chain_id["result"] == hex(node.network.eth_chain_id)
    assert actor["result"]["Code"]
    assert "0 problems" in printed


@pytest.mark.recorded
async def test_it_works_on_calibnets_genesis_with_its_schedule(tmp_path: Path) -> None:
    """No setting names the network: its genesis does. The answers are those that the page promises."""
    (tmp_path / "chain.car.zst").symlink_to(recorded("genesis/calibnet.car.zst"))
    (tmp_path / "network.json").write_text(json.dumps(CALIBNET.to_json()))
    node = await start_replay(tmp_path)
    try:
        async with machine(node, {}) as machines:
            status = Path(sys.prefix, "bin", "follower")
            machines.command("rm", f'{status} status --json --store lmdb://data/store && exec /bin/rm "$@"')
            printed, running = await walk_through(machines)
            judge(running, machines)
    finally:
        await node.stop()
    head, name, chain_id, actor = json_answers(printed)[:4]
    page = PAGE.read_text()
    assert head["result"]["Height"] == 0
    assert [one["/"] for one in head["result"]["Cids"]] == [str(CALIBNET.genesis)]
    assert name["result"] == "calibrationnet" and "`calibrationnet`" in page
    assert chain_id["result"] == "0x4cb2f" and "`0x4cb2f`" in page
    assert actor["result"]["Code"]
    assert upgrades(printed) == upgrades_of_the_page()


def upgrades(printed: str) -> list[tuple[int, int]]:
    """(first epoch, network version) as the store has them."""
    status: dict[str, Any] = json.loads(printed[printed.rindex('{\n  "store"') :])
    return [(one["height"] + 1, one["network_version"]) for one in status["network"]["upgrades"]]


def upgrades_of_the_page() -> list[tuple[int, int]]:
    """The table of docs/calibnet.md."""
    table = (ROOT / "docs" / "calibnet.md").read_text().partition("<!-- upgrades of calibnet")[2]
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \|$", table, re.MULTILINE)
    assert len(rows) > 20
    return [(int(epoch.replace(",", "")), int(version)) for version, epoch in rows]


async def test_a_block_that_never_gets_ready_fails() -> None:
    """The test of the test: an endpoint at which nobody listens."""
    machines = Machines({"here": "10.0.0.1"}, {}, {})
    try:
        (block,) = (one for one in read_blocks(PAGE) if one.runs_on)
        machines.command("make", "echo it does not start; exit 1")
        with pytest.raises(AssertionError, match="never says 'ready'"):
            await (await machines.begin(block, "here")).says("ready")
    finally:
        machines.close()
