"""The tables in a Cassandra keyspace: what `follower schema` prints and applies.

`cassandra-driver` does this, not the data path's driver: it waits for schema agreement. Only CQL that
YCQL documents: no materialized view, no secondary index.
"""

from __future__ import annotations

import re
from typing import Any, Final

from cassandra import AuthenticationFailed, DriverException, RequestExecutionException, Unauthorized
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy

from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.session import Forbidden, refusal_text
from blockstore.errors import StoreUnavailable
from blockstore.store import FILTERS, FLEET, HEAD_LOG, TABLES

#: loose objects that followers write, whose role may not write `objects`. Read when `objects` lacks one, and verified
LOOSE: Final = "loose"
#: what a follower may write: nothing of the chain
READER_WRITES: Final = (FILTERS.name, FLEET.name, LOOSE)


def statements(keyspace: str, replication: int = 1) -> list[str]:
    """The DDL of a store, in the order to apply it. `replication` is the number of copies."""
    ddl = [
        f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
        f"{{'class': 'SimpleStrategy', 'replication_factor': {replication}}}",
        # `c` (closed) is a column of its own, so that a loose put, which leaves it alone, never reopens an object
        f"CREATE TABLE IF NOT EXISTS {keyspace}.objects (m blob PRIMARY KEY, d blob, c boolean)",
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{LOOSE} (m blob PRIMARY KEY, d blob)",
        # static columns hold what publishing compares: one partition, one compare-and-set
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{HEAD_LOG.name} (p blob, seq bigint, entry blob, visible_at bigint, "
        "term bigint STATIC, last bigint STATIC, owner blob STATIC, renewals bigint STATIC, fence bigint STATIC, "
        "PRIMARY KEY (p, seq))",
    ]
    ddl += [
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{name} (p blob, k blob, v blob, PRIMARY KEY (p, k))"
        for name in TABLES
        if name != HEAD_LOG.name
    ]
    return ddl


def grants(keyspace: str, reader: str, writer: str) -> list[str]:
    """The grants of a follower's role (`reader`) and a bridge's (`writer`). Both roles exist already.

    Errors: ValueError (not two different names of letters, digits and underscores).
    """
    if reader == writer or not all(re.fullmatch(r"[a-z][a-z0-9_]{0,47}", role) for role in (reader, writer)):
        raise ValueError("roles are two different names of small letters, digits and underscores")
    return [
        f"GRANT SELECT ON KEYSPACE {keyspace} TO {reader}",
        *(f"GRANT MODIFY ON TABLE {keyspace}.{name} TO {reader}" for name in READER_WRITES),
        f"GRANT SELECT ON KEYSPACE {keyspace} TO {writer}",
        f"GRANT MODIFY ON KEYSPACE {keyspace} TO {writer}",
    ]


def apply(address: CassandraAddress, replication: int = 1) -> None:
    """Make what is not there. Blocks: call it in a thread. Errors: StoreUnavailable, Forbidden."""
    run(address, statements(address.keyspace, replication))


def run(address: CassandraAddress, cql: list[str]) -> None:
    """Run administrative statements one after another, all by the first host that answers.

    By one host: of two that make the same table at once each would make its own. Blocks. Errors: StoreUnavailable,
    Forbidden.
    """
    for at, host in enumerate(address.hosts):
        try:
            _run_by(host, address, cql)
            return
        except _NotThere as error:
            if at + 1 == len(address.hosts):
                raise StoreUnavailable(f"{address.url} does not answer: {error}") from None


class _NotThere(Exception):
    """A host does not answer."""


def _run_by(host: str, address: CassandraAddress, cql: list[str]) -> None:
    auth: Any = PlainTextAuthProvider(address.user, address.password) if address.user else None
    profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy([host]), request_timeout=60)
    cluster = Cluster(
        [host],
        port=address.port,
        protocol_version=4,
        auth_provider=auth,
        ssl_context=address.tls.context() if address.tls else None,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    try:
        try:
            session = cluster.connect()
        except NoHostAvailable as error:
            if any(isinstance(one, AuthenticationFailed) for one in error.errors.values()):
                raise Forbidden(refusal_text(address)) from None
            raise _NotThere(error) from None
        for statement in cql:
            session.execute(statement)
    except Unauthorized as error:
        raise Forbidden(f"{address.url}: {error}") from None
    except (NoHostAvailable, DriverException, RequestExecutionException) as error:
        raise StoreUnavailable(f"{address.url}: the schema cannot be applied: {error}") from None
    finally:
        cluster.shutdown()
