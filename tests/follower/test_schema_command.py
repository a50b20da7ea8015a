"""`follower schema`: what it prints makes a store, and a follower's role cannot write the chain's tables."""

from __future__ import annotations

import asyncio

import pytest

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.store import CassandraStore
from follower.cli import main
from tests.support.cassandra.stores import keyspace_url


def test_it_prints_every_table_and_grants(capsys: pytest.CaptureFixture[str]) -> None:
    where = "cassandra://127.0.0.1:1/printed"
    assert main(["schema", "--store", where, "--replication", "3", "--roles", "web,bridge"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert all(line.endswith(";") for line in told)
    assert "'replication_factor': 3" in told[0]
    for name in cassandra_schema.tables():
        assert sum(f" printed.{name} (" in line for line in told) == 1
    writes = {line for line in told if "MODIFY" in line and line.endswith(" TO web;")}
    assert writes == {f"GRANT MODIFY ON TABLE printed.{name} TO web;" for name in ("filters", "fleet", "loose")}
    assert "GRANT MODIFY ON KEYSPACE printed TO bridge;" in told


@pytest.mark.parametrize("roles", ["web", "web,web", "web,", "web,bridge;DROP"])
def test_roles_that_are_none_are_refused(roles: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--store", "cassandra://127.0.0.1:1/printed", "--roles", roles]) == 2
    assert "--roles" in capsys.readouterr().err


def test_a_store_of_one_machine_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--store", "lmdb:///nowhere"]) == 2
    assert "shared store" in capsys.readouterr().err


def test_what_is_applied_is_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    url = keyspace_url("follower_schema")
    cassandra_schema.run(CassandraAddress.parse(url), ["DROP KEYSPACE IF EXISTS follower_schema"])
    assert main(["schema", "--store", url, "--apply"]) == 0
    assert "applied to" in capsys.readouterr().out

    async def read() -> int:
        # read-only: it makes nothing itself
        store = await CassandraStore.open(url, readonly=True)
        term = (await store.lease()).term
        await store.close()
        return term

    assert asyncio.run(read()) == 0
