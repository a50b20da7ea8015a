"""Stores in a test's own keyspace of a real Cassandra, emptied."""

from __future__ import annotations

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.store import CassandraStore
from tests.support.cassandra.server import cassandra_hosts, copies

USED = ("head", "head_entries", "meta_by_term")


def keyspace_url(keyspace: str) -> str:
    """Skips the test where there is no server."""
    return f"cassandra://{cassandra_hosts()}/{keyspace}"


async def emptied(url: str, *, delta_ms: int, epsilon_ms: int, every: bool = False) -> CassandraStore:
    """The store, made if it is not there, with nothing published (or `every` table empty)."""
    store = await CassandraStore.open(url, replication=copies())
    await store.close()
    place = CassandraAddress.parse(url)
    names = cassandra_schema.tables() if every else USED
    cassandra_schema.run(place, [f"TRUNCATE {place.keyspace}.{name}" for name in names])
    store = await CassandraStore.open(url, delta_ms=delta_ms, epsilon_ms=epsilon_ms)
    for number in await store.generations():
        if number != store.current_generation:
            # of a test before
            await store.drop_generation(number)
    return store
