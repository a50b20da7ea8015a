"""Opens the store that a URL names. The one place that knows every backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blockstore.errors import StoreError
from blockstore.extensions import STORES, find_extensions
from blockstore.lmdb.environment import DEFAULT_MAP_SIZE
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import Store
from blockstore.store_url import SCHEMES, public_url


@dataclass(frozen=True, slots=True)
class SharedStoreOptions:
    """Options of a store that several machines share.

    `delta_ms`: milliseconds from a head's writing until it is visible. `epsilon_ms`: the most that two clocks may
    differ. `replication`: copies of each row, where the tables are created.
    """

    delta_ms: int = 500
    epsilon_ms: int = 50
    replication: int = 1
    #: two processes must not create tables at once
    may_create_tables: bool = False
    #: copy the tables of an older version to this one's
    may_migrate: bool = False


_memory: dict[str, MemoryStore] = {}


async def open_store(
    url: str,
    *,
    readonly: bool = False,
    map_size: int = DEFAULT_MAP_SIZE,
    bulk: bool = False,
    shared: SharedStoreOptions | None = None,
) -> Store:
    """The store that `url` names: `lmdb:///absolute`, `lmdb://relative`, `memory://name`,
    `cassandra://[user:password@]host[,host][:port]/keyspace[?tls=1&ca=FILE&cert=FILE&key=FILE]`.

    Or a URL whose scheme another package adds (entry points `lotus_follower.stores`).

    `map_size` (bytes) and `bulk` (sync at the end only) concern LMDB, `shared` a store of many machines. Errors:
    StoreError (an unknown scheme), StoreUnavailable, SchemaMismatch,
    BadExtension.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "lmdb" and rest:
        return await LmdbStore.open(Path(rest), readonly=readonly, map_size=map_size, bulk=bulk)
    if scheme == "memory":
        return _memory.setdefault(rest, MemoryStore(rest))
    if scheme == "cassandra":
        # importing its drivers takes a third of a second
        from blockstore.cassandra.store import CassandraStore

        options = shared or SharedStoreOptions()
        return await CassandraStore.open(
            url,
            readonly=readonly,
            delta_ms=options.delta_ms,
            epsilon_ms=options.epsilon_ms,
            replication=options.replication,
            may_create_tables=options.may_create_tables,
            may_migrate=options.may_migrate,
        )
    for extension in find_extensions(STORES):
        if extension.name == scheme and scheme not in SCHEMES:
            store = await extension.load()(url, readonly=readonly)
            if not isinstance(store, Store):
                raise extension.error(f"it opened a {type(store).__name__}, which is no blockstore.store.Store")
            return store
    raise StoreError(f"{public_url(url)!r} is not a store URL (lmdb:///path, cassandra://host/keyspace)")


def store_schemes() -> tuple[str, ...]:
    """The schemes of store URLs that can be opened here. Errors: BadExtension."""
    added = sorted({extension.name for extension in find_extensions(STORES)} - set(SCHEMES))
    return (*SCHEMES, *added)
