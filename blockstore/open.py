"""From a store URL to a store: the one place that knows every backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blockstore.errors import StoreError
from blockstore.lmdb.store import DEFAULT_MAP_SIZE, LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import Store
from blockstore.store_url import public_url


@dataclass(frozen=True, slots=True)
class Shared:
    """What a store of many machines is told: how long (milliseconds) a written head waits until it is visible,
    the most that two clocks differ, of how many copies its tables are made, and whether this process may make them.
    """

    delta_ms: int = 500
    epsilon_ms: int = 50
    replication: int = 1
    #: tables must not be made by several processes at once
    make: bool = False


_memory: dict[str, MemoryStore] = {}


async def open_store(
    url: str,
    *,
    readonly: bool = False,
    map_size: int = DEFAULT_MAP_SIZE,
    bulk: bool = False,
    shared: Shared | None = None,
) -> Store:
    """The store that `url` names: `lmdb:///absolute`, `lmdb://relative`, `memory://name`,
    `cassandra://[user:password@]host[,host][:port]/keyspace[?tls=1&ca=FILE&cert=FILE&key=FILE]`.

    `map_size` (bytes) and `bulk` (sync at the end only) concern LMDB, `shared` a store of many machines. Errors:
    StoreError (an unknown scheme), StoreUnavailable, SchemaMismatch.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "lmdb" and rest:
        return await LmdbStore.open(Path(rest), readonly=readonly, map_size=map_size, bulk=bulk)
    if scheme == "memory":
        return _memory.setdefault(rest, MemoryStore(rest))
    if scheme == "cassandra":
        # its drivers take a third of a second to import, which nobody else should pay
        from blockstore.cassandra.store import CassandraStore

        known = shared or Shared()
        return await CassandraStore.open(
            url,
            readonly=readonly,
            delta_ms=known.delta_ms,
            epsilon_ms=known.epsilon_ms,
            replication=known.replication,
            make=known.make,
        )
    raise StoreError(f"{public_url(url)!r} is not a store URL (lmdb:///path, cassandra://host/keyspace)")
