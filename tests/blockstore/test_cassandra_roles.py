"""Roles on a real Cassandra that asks for them: what a follower's may write, what a bridge's, and a wrong password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.session import AcsyllaSession, Forbidden
from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.errors import StoreError
from blockstore.store import COVERAGE, FILTERS, FLEET, MESSAGES, META, TIPSETS, Batch, Held
from follower.cli import main
from leader_bridge.follow.lease import LeaseStore
from tests.blockstore.store_contract import entry
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import following, replay_log
from tests.support.cassandra.server import cassandra_with_roles
from tests.support.processes import follower_process, free_port, run_follower

KEYSPACE = "with_roles"
SECRETS = {"web": "web-S3cret", "bridge": "bridge-S3cret"}
DATA = b"an object"
KEY = multihash_of(DATA)


def _as(user: str, password: str) -> str:
    return f"cassandra://{user}:{password}@{cassandra_with_roles()}/{KEYSPACE}"


def url(role: str) -> str:
    return _as(role, SECRETS[role])


def admin(cql: list[str]) -> None:
    """As the first user, who is made some moments after the server is up."""
    place = CassandraAddress.parse(_as("cassandra", "cassandra"))
    until = time.monotonic() + 60
    while True:
        try:
            cassandra_schema.run(place, cql)
            return
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="module")
def schema() -> str:
    """Made by the command, as an operator makes it."""
    admin(
        [
            f"CREATE ROLE IF NOT EXISTS {name} WITH PASSWORD = '{told}' AND LOGIN = true"
            for name, told in SECRETS.items()
        ]
    )
    assert main(["schema", "--store", _as("cassandra", "cassandra"), "--apply", "--roles", "web,bridge"]) == 0
    return KEYSPACE


@dataclass
class Both:
    web: CassandraStore
    bridge: CassandraStore


@pytest.fixture
async def both(schema: str) -> AsyncIterator[Both]:
    made = Both(*[await CassandraStore.open(url(role), delta_ms=200, epsilon_ms=50) for role in ("web", "bridge")])
    yield made
    await made.web.close()
    await made.bridge.close()


@pytest.mark.parametrize("table", [META, TIPSETS, MESSAGES, COVERAGE])
async def test_a_followers_role_writes_no_rows_of_the_chain(both: Both, table) -> None:  # type: ignore[no-untyped-def]
    batch = Batch()
    batch.put(table, b"p", b"k", b"v")
    with pytest.raises(Forbidden, match="MODIFY"):
        await both.web.write(batch)
    await both.bridge.write(batch)
    assert await both.web.row(table, b"p", b"k") == b"v"
    batch = Batch()
    batch.delete(table, b"p", b"k")
    with pytest.raises(Forbidden):
        await both.web.write(batch)
    await both.bridge.write(batch)
    assert await both.web.row(table, b"p", b"k") is None


async def test_a_followers_role_publishes_nothing(both: Both) -> None:
    with pytest.raises(Forbidden):
        await both.web.new_term("a follower")
    term = await both.bridge.new_term("a bridge")
    before = await both.bridge.head()
    seq = before.seq + 1 if before else 1
    await both.bridge.append_head(entry(seq, term))
    await both.bridge.append_head(entry(seq + 1, term))
    seq += 2
    for work in (both.web.append_head(entry(seq, term)), both.web.renew_lease(term, 7), both.web.trim_head_log(1)):
        with pytest.raises(Forbidden):
            await work
    await both.bridge.append_head(entry(seq, term))
    await both.bridge.renew_lease(term, 7)
    await both.bridge.trim_head_log(1)
    assert (await both.web.lease()).renewals == 7
    assert [one.seq for one in await both.web.head_entries(0)] == [seq]
    assert isinstance(both.web, LeaseStore)
    assert abs(await both.web.clock_ms() - time.time() * 1000) < 60_000


@pytest.mark.parametrize("table", [FLEET, FILTERS])
async def test_a_followers_role_writes_what_is_its_own(both: Both, table) -> None:  # type: ignore[no-untyped-def]
    batch = Batch()
    batch.put(table, b"p", b"k", b"v")
    await both.web.write(batch)
    assert await both.bridge.row(table, b"p", b"k") == b"v"
    batch = Batch()
    batch.delete(table, b"p", b"k")
    await both.web.write(batch)
    assert await both.web.scan(table, b"p") == []


async def test_a_followers_objects_are_loose_and_spoil_nothing(both: Both) -> None:
    with pytest.raises(Forbidden):
        await both.web.put_many([(KEY, DATA)], closed=True)
    await both.web.put_many([(KEY, DATA)], closed=False)
    for store in (both.web, both.bridge):
        assert await store.get(KEY) == DATA
        assert await store.held_many([KEY]) == [Held.LOOSE]
    with pytest.raises(Forbidden):
        await both.web.close_many([KEY])
    # who has the role's password can write anything there: it is told by its hash, and passed over
    wrong = multihash_of(b"another")
    session = await AcsyllaSession.open(CassandraAddress.parse(url("web")))
    for bytes_ in (b"\0not it", b"", b"\1broken"):
        await session.execute(f"INSERT INTO {KEYSPACE}.loose (m, d) VALUES (?, ?)", [wrong, bytes_])
        assert await both.bridge.get_many([wrong, KEY]) == [None, DATA]
        assert await both.bridge.held_many([wrong]) == [Held.ABSENT]
    # and what the bridge has is never asked of there
    with pytest.raises(Forbidden):
        await session.execute(f"INSERT INTO {KEYSPACE}.objects (m, d) VALUES (?, ?)", [KEY, b"\0not it"])
    await session.close()
    await both.bridge.close_many([KEY])
    assert await both.web.held_many([KEY]) == [Held.CLOSED]
    assert await both.web.get(KEY) == DATA


async def test_a_bridge_follows_with_its_role(both: Both) -> None:
    admin([f"TRUNCATE {KEYSPACE}.{name}" for name in ("head", "head_entries", "meta_by_term")])
    made = await CassandraStore.open(_as("cassandra", "cassandra"))  # the log's first row
    await made.close()
    chain = SmallChain(5)
    tips = chain.line(chain.genesis, 4)
    node = await TestNode(chain.objects, chain.genesis.key, tips[0].key).start()
    try:
        async with following(both.bridge, [node.url]) as bridge:
            for tipset in tips[1:]:
                await node.go_to(tipset.key)
                await until(lambda: bridge.head is not None and bridge.head.head.key == node.head)
    finally:
        await node.stop()
    assert (await replay_log(both.web))[-1].key == tips[-1].key


@pytest.mark.parametrize(("user", "password"), [("web", "wr0ng-pass"), ("nobody", "wr0ng-pass")])
def test_a_wrong_password_is_told_without_it(
    schema: str, user: str, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--store", _as(user, password)]) == 2
    told = capsys.readouterr()
    assert "refuses the password of user" in told.err
    assert user in told.err
    assert password not in told.err + told.out
    assert main(["schema", "--store", _as(user, password), "--apply"]) == 2
    told = capsys.readouterr()
    assert "refuses the password of user" in told.err
    assert password not in told.err + told.out


def test_a_server_that_asks_for_names_is_told_apart_from_one_that_is_down(schema: str) -> None:
    async def open_without() -> None:
        await CassandraStore.open(f"cassandra://{cassandra_with_roles()}/{KEYSPACE}", readonly=True)

    with pytest.raises(StoreError, match="refuses users without a name"):
        asyncio.run(open_without())


def test_no_command_over_a_real_server_shows_the_password(schema: str) -> None:
    """Drivers log too; `follower` runs at its most talkative level."""
    node = ["--node", f"http://127.0.0.1:{free_port()}"]
    shown = ""
    for arguments in (["status"], ["schema", "--apply"], ["loadbalancer", "haproxy"], ["config"]):
        done = run_follower(*arguments, "--store", url("bridge"), "--log-level", "debug")
        shown += done.stdout + done.stderr
    for arguments in (["bridge", *node], ["serve", *node, "--listen", f"127.0.0.1:{free_port()}", "--fleet", "off"]):
        with follower_process(*arguments, "--store", url("bridge"), "--log-level", "debug") as running:
            deadline = time.monotonic() + 60
            while running.process.poll() is None and not running.output() and time.monotonic() < deadline:
                time.sleep(0.1)
        shown += running.output()
    assert KEYSPACE in shown
    assert not [secret for secret in SECRETS.values() if secret in shown]
