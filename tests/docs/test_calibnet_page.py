"""docs/calibnet.md works as it is written, from its first block to its last.

Each machine is a folder with an address of its own. A recorded chain is played in calibnet's place; Cassandra (one node
in the place of three) and HAProxy with TLS are real; the software comes from its wheel. What is not run is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import zstandard

from blockstore.car.reader import iter_car
from blockstore.car.writer import CarWriter
from devnode.replay import ReplayNode, start_replay
from tests.docs.machines import Machines, required_tools
from tests.docs.pages import Block, json_answers, read_blocks
from tests.support.cassandra.server import Node, jars_or_skip
from tests.support.installed import build_wheel, install_wheel
from tests.support.paths import ROOT
from tests.support.proxies import required
from tests.support.recorded import recorded

PAGE: Final = ROOT / "docs" / "calibnet.md"
MACHINES: Final = {
    "node1": "10.0.0.41", "bridge1": "10.0.0.21", "bridge2": "10.0.0.22",
    "db1": "10.0.0.31", "db2": "10.0.0.32", "db3": "10.0.0.33",
    "f1": "10.0.0.11", "f2": "10.0.0.12", "f3": "10.0.0.13", "lb1": "10.0.0.51",
}  # fmt: skip
#: what the page has, and what one small machine without root can do
REPLACED: Final = {
    "10.0.0.31,10.0.0.32,10.0.0.33": "10.0.0.31",
    "--replication 3": "--replication 1",
    "'replication_factor': 3": "'replication_factor': 1",
    "0.0.0.0:443": "10.0.0.51:8443",
}
#: by heading: what takes the place of the blocks that are not run
INSTEAD: Final = {
    "Firewall": "nothing",
    "The full node": "a recorded chain is played",
    "The database": "one Cassandra of the test's own is started",
    "Install": "the project's wheel and its locked libraries are put there",
    "Start from a snapshot": "the recorded chain's snapshot is put there",
    "HAProxy with TLS": "the HAProxy of this machine is used",
    "Backup and restore": "nothing",
    "Upgrade without downtime": "nothing: the same version is started again",
}
#: the snapshot's head is that of this head change; the node is a few ahead of it, and goes on
SNAPSHOT: Final = 200
AHEAD: Final = 5


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/lotus-follower of every machine."""
    folder = tmp_path_factory.mktemp("installed")
    return install_wheel(build_wheel(folder), folder / "lotus-follower").parents[1]


def write_snapshot(file: Path, node: ReplayNode) -> None:
    """The recorded chain's snapshot as it was at an older head, for calibnet's node has gone on, too."""
    head, arrivals = node.chain.changes[SNAPSHOT].head, node.chain.arrivals()
    with file.open("wb") as out, zstandard.ZstdCompressor().stream_writer(out) as packed:
        writer = CarWriter(packed, head.key.cids)  # type: ignore[arg-type]
        for cid, data in iter_car(recorded("devnet/snapshot.car.zst")):
            if arrivals.get(cid.multihash, 0) <= SNAPSHOT + 1:
                writer.write(cid, data)


class Deployment:
    """The page's machines, and what stands in the place of the blocks that are not run."""

    def __init__(self, installed: Path, node: ReplayNode, database: Node, machines: Machines) -> None:
        self.installed, self.node, self.database, self.machines = installed, node, database, machines

    async def run(self, block: Block) -> str:
        if not block.needs:
            return await self.machines.run(block)
        print(f"{block.place} needs {block.needs}. Instead: {INSTEAD[block.heading]}")
        if block.heading == "The database":
            reason = await asyncio.to_thread(self.database.wait)
            assert not reason, reason
        elif block.heading == "Install":
            for machine in block.machines:
                self.machines.path(machine, "opt/lotus-follower").symlink_to(self.installed)
                self.machines.path(machine, "usr/local/src/lotus-follower").symlink_to(ROOT)
        elif block.heading == "Start from a snapshot":
            write_snapshot(self.machines.path("bridge1", "var/tmp/calibnet.forest.car.zst"), self.node)
        return ""


@contextlib.asynccontextmanager
async def deployment(installed: Path) -> AsyncIterator[Deployment]:
    required("haproxy")
    required_tools("bash", "curl", "openssl")
    lib = jars_or_skip()
    recording = recorded("devnet/chain.car.zst").parent
    settings = {
        "REPOSITORY": str(ROOT),
        # the recorded chain is a private network, and old
        "FOLLOWER_NETWORK_FILE": str(recording / "network.json"),
        "FOLLOWER_READY_HEAD_AGE_EPOCHS": "0",
        "FOLLOWER_REPLICATION": "1",
        # two cores, ten machines
        "FOLLOWER_WORKERS": "1",
        "FOLLOWER_BACKFILL_EPOCHS": "20",
    }
    machines = Machines(MACHINES, settings, REPLACED)
    database = Node(lib, machines.address("db1"), 9042, 7000, CASS_AUTH="1")
    database.start()
    node = await start_replay(recording, host=machines.address("node1"), port=1234)
    try:
        node.advance(SNAPSHOT + 1 + AHEAD)
        connect = f'connect-to = "rpc.example.com:443:{machines.address("lb1")}:8443"\n'
        machines.path("lb1", ".curlrc").write_text(connect)
        yield Deployment(installed, node, database, machines)
    finally:
        machines.close()
        await node.stop()
        database.stop()


async def ask_all_the_time(deployed: Deployment, failed: list[str], answered: list[int]) -> None:
    """A client of the fleet, through HAProxy and TLS: every answer counts."""
    machines = deployed.machines
    context = ssl.create_default_context(cafile=machines.path("lb1", "etc/haproxy/tls/ca.pem"))
    url = f"https://{machines.address('lb1')}:8443/rpc/v1"
    body = {"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []}
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.post(url, json=body, ssl=context, server_hostname="rpc.example.com") as answer:
                    told = await answer.json(content_type=None)
                    if answer.status == 200 and "result" in told:
                        answered.append(told["result"]["Height"])
                    else:
                        failed.append(f"{answer.status} {told}")
            except (aiohttp.ClientError, ValueError) as error:
                failed.append(repr(error))
            await asyncio.sleep(0.05)


@pytest.mark.recorded
async def test_the_page_works_from_its_first_block_to_its_last(installed: Path) -> None:
    blocks = [block for block in read_blocks(PAGE) if not block.is_shown_only]
    assert {block.heading for block in blocks if block.needs} == set(INSTEAD)
    async with deployment(installed) as deployed:
        node, machines = deployed.node, deployed.machines
        playing = asyncio.create_task(play(node))
        asking: asyncio.Task[None] | None = None
        failed: list[str] = []
        answered: list[int] = []
        printed: dict[str, str] = {}
        try:
            for block in blocks:
                began = time.monotonic()
                printed[block.heading] = printed.get(block.heading, "") + await deployed.run(block)
                print(f"{block.place} {block.heading}: {time.monotonic() - began:.1f} s")
                if block.heading == "The first query" and asking is None:
                    asking = asyncio.create_task(ask_all_the_time(deployed, failed, answered))
        finally:
            for task in filter(None, (asking, playing)):
                task.cancel()
            await asyncio.gather(*filter(None, (asking, playing)), return_exceptions=True)
        head, actor = json_answers(printed["The first query"])
        assert head["result"]["Height"] > node.chain.changes[SNAPSHOT].head.height
        assert actor["result"]["Code"]
        assert "epoch" in printed["Start from a snapshot"]
        assert "0 problems" in printed["The followers"]
        # the whole fleet was restarted meanwhile, and a follower was removed
        print(f"{len(answered)} answers through HAProxy during restarts, {len(failed)} failed")
        assert len(answered) > 20
        assert not failed, failed[:5]
        assert f"{machines.address('f3')}:1234" not in machines.path("lb1", "etc/haproxy/haproxy.cfg").read_text()


async def play(node: ReplayNode) -> None:
    """A head now and then, as calibnet has, only faster."""
    async for _ in node.play(interval=1.0):
        pass


def test_the_scrape_jobs_name_the_addresses_of_the_page() -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    followers, bridges = (re.findall(rf'"(10\.[\d.]+):{port}"', text) for port in (1234, 9101))
    assert followers == [MACHINES[name] for name in ("f1", "f2", "f3")]
    assert bridges == [MACHINES[name] for name in ("bridge1", "bridge2")]


async def test_a_broken_block_fails(tmp_path: Path) -> None:
    """The test of the test: a command with a flag that does not exist, and a file that is not there."""
    required_tools("bash", "curl")
    machines = Machines({"f1": "10.0.0.11"}, {}, {})
    try:
        for text in ("curl --no-such-flag http://10.0.0.11:1234/\n", "cat /etc/lotus-follower/none\necho on\n"):
            with pytest.raises(AssertionError, match="exit code"):
                await machines.run(Block("page", 1, "", "sh", text, ("f1",)))
    finally:
        machines.close()
