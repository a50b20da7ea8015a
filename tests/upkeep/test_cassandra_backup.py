"""The steps of docs/stores.md by which a Cassandra store is backed up and restored, on two real servers."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.cassandra import schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.store import CassandraStore
from blockstore.store import HEAD_LOG, LEASE, META, TABLES
from leader_bridge.imports.importer import import_car
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.damage import CheckReport
from tests.support.cassandra.server import Node, jars_or_skip
from tests.support.paths import ROOT
from tests.support.processes import free_port, run_follower
from tests.support.recorded import recorded
from tests.upkeep.damages import everything

KEYSPACE = "filecoin"


class Server:
    """A Cassandra node with its administration port, and its `nodetool`."""

    def __init__(self) -> None:
        self._jmx = free_port()
        self.node = Node(
            jars_or_skip(),
            "127.0.0.1",
            free_port(),
            free_port(),
            CASS_EXTRA=f"-Dcassandra.jmx.local.port={self._jmx}",
        )
        self.node.start()
        assert self.node.wait() == ""

    @property
    def url(self) -> str:
        return f"cassandra://127.0.0.1:{self.node.port}/{KEYSPACE}"

    def nodetool(self, command: str) -> str:
        """Run `nodetool …` as the page has it."""
        assert command.startswith("nodetool ")
        options = (self.node.root / "conf" / "jvm.options").read_text().splitlines()
        opened = [option for option in options if option.startswith("--add-")]
        java = ["java", *opened, f"-Duser.home={self.node.root}", "-cp", f"{jars_or_skip()}/*"]
        tool = ["org.apache.cassandra.tools.NodeTool", "-p", str(self._jmx), *command.split()[1:]]
        done = subprocess.run([*java, *tool], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.node.stop()


def commands() -> list[str]:
    """The command lines of the page's part on Cassandra."""
    page = (ROOT / "docs" / "stores.md").read_text()
    part = page[page.index("### Cassandra") : page.index("### Any store")]
    return re.findall(r"^ {4}(.+)$", part, re.MULTILINE)


@pytest.mark.long
@pytest.mark.recorded
async def test_a_snapshot_is_restored_on_another_server(servers: list[Server], tmp_path: Path) -> None:
    snapshot, make, empty, load = commands()
    tables = [table for table in TABLES.values() if table not in (HEAD_LOG, LEASE, META)]
    servers.append(await asyncio.to_thread(Server))
    store = await CassandraStore.open(servers[0].url, delta_ms=200, epsilon_ms=50)
    await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    before, head = await everything(store, tables), await store.head()
    await store.close()
    await asyncio.to_thread(servers[0].nodetool, snapshot)
    data = servers[0].node.root / "data" / KEYSPACE
    folders = {folder.name.partition("-")[0]: folder / "snapshots" / "monday" for folder in data.iterdir()}
    assert folders.keys() == set(schema.tables())
    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / "monday" / name)
    servers.pop().node.stop()

    servers.append(await asyncio.to_thread(Server))
    arguments = make.replace("cassandra://db1/filecoin", servers[0].url).replace("--replication 3", "").split()[1:]
    done = await asyncio.to_thread(run_follower, *arguments)
    assert done.returncode == 0, done.stderr
    (statements,) = re.findall(r"'(.+)'", empty)
    schema.run(CassandraAddress.parse(servers[0].url), [text.strip() for text in statements.split(";")])
    for name in folders:
        command = load.replace("/backup", str(tmp_path)).replace("objects", name)
        await asyncio.to_thread(servers[0].nodetool, command)

    restored = await CassandraStore.open(servers[0].url, delta_ms=200, epsilon_ms=50)
    assert await everything(restored, tables) == before
    assert await restored.head() == head
    report = CheckReport()
    await check_store(restored, report, objects=False)
    assert report.damages == []
    # a bridge can lead
    assert await restored.new_term("after the restore") > 0
    await restored.close()
