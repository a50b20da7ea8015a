"""The tables in a Cassandra keyspace: what `follower schema` prints and applies.

`cassandra-driver` does this, not the data path's driver: it waits for schema agreement. Only CQL that
YCQL documents: no materialized view, no secondary index, no static column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    RequestExecutionException,
    Unauthorized,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy
from cassandra.protocol import ErrorMessage

from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import ENTRIES, HEAD
from blockstore.cassandra.session import Forbidden, refusal_text
from blockstore.errors import StoreUnavailable
from blockstore.store import COVERAGE, FILTERS, FLEET, HEAD_LOG, META, TABLES, TIPSETS

#: of the tables below. 1: the log in one partition with static columns, rows fenced by write times
#: 2: without generations of objects
SCHEMA_VERSION: Final = 3
#: else Cassandra keeps what a dropped table held, as a snapshot
_NO_SNAPSHOT: Final = " WITH allow_auto_snapshot = false"
#: tables of which a leader reads, changes and writes rows: each row once a term that wrote it, the newest counts
BY_TERM: Final = frozenset({TIPSETS.name, COVERAGE.name, META.name})
#: loose objects that followers write, whose role may not write `objects`. Read when `objects` lacks one, and verified
LOOSE: Final = "loose"
#: objects that are never dropped, and parts of large rows. Each generation of the others has a table of its own
LASTING_OBJECTS: Final = "objects"
_GENERATION: Final = re.compile(r"objects_(\d+)")
#: what a follower may write: nothing of the chain
READER_WRITES: Final = (FILTERS.name, FLEET.name, LOOSE)


def table_name(name: str) -> str:
    """The CQL table of a table of rows."""
    return f"{name}_by_term" if name in BY_TERM else name


def tables() -> list[str]:
    """The CQL tables of a store."""
    return [
        LASTING_OBJECTS,
        "objects_1",
        LOOSE,
        HEAD,
        ENTRIES,
        *(table_name(name) for name in TABLES if name != HEAD_LOG.name),
    ]


def keyspace_statement(keyspace: str, replication: int = 1, data_centre: str = "") -> str:
    """Makes a keyspace: `replication` copies, in `data_centre` where the server wants it named."""
    copies = (
        f"'class': 'NetworkTopologyStrategy', '{data_centre}': {replication}"
        if data_centre
        else f"'class': 'SimpleStrategy', 'replication_factor': {replication}"
    )
    return f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{{copies}}}"


def statements(keyspace: str, replication: int = 1) -> list[str]:
    """The DDL of a store, in the order to apply it. `replication` is the number of copies."""
    ddl = [
        keyspace_statement(keyspace, replication),
        _objects_statement(f"{keyspace}.{LASTING_OBJECTS}"),
        _objects_statement(generation_table(keyspace, 1)),
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{LOOSE} (m blob PRIMARY KEY, d blob)",
        # the row that every compare-and-set of publishing is on, and the entries that it has gone on from
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{HEAD} (p blob PRIMARY KEY, term bigint, last bigint, owner blob, "
        "renewals bigint, entry blob, visible_at bigint, previous bigint)",
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{ENTRIES} (p blob, seq bigint, entry blob, visible_at bigint, "
        "PRIMARY KEY (p, seq))",
    ]
    return [*ddl, *row_statements(keyspace).values()]


def row_statements(keyspace: str) -> dict[str, str]:
    """The DDL of the tables of rows, by the name of the CQL table."""
    ddl: dict[str, str] = {}
    for name in TABLES:
        made = f"CREATE TABLE IF NOT EXISTS {keyspace}.{table_name(name)}"
        if name in BY_TERM:
            order = "WITH CLUSTERING ORDER BY (k ASC, t DESC)"
            ddl[table_name(name)] = f"{made} (p blob, k blob, t bigint, v blob, PRIMARY KEY (p, k, t)) {order}"
        elif name != HEAD_LOG.name:
            ddl[table_name(name)] = f"{made} (p blob, k blob, v blob, PRIMARY KEY (p, k))"
    return ddl


def _objects_statement(name: str) -> str:
    # `c` (closed) is a column of its own, so that a loose put, which leaves it alone, never reopens an object
    return f"CREATE TABLE IF NOT EXISTS {name} (m blob PRIMARY KEY, d blob, c boolean)"


def generation_table(keyspace: str, number: int) -> str:
    """The table of a generation of objects."""
    return f"{keyspace}.objects_{number}"


def generation_of(table: str) -> int | None:
    """The number of the generation whose table has this name; None for another table."""
    found = _GENERATION.fullmatch(table)
    return int(found[1]) if found else None


def make_generation(address: CassandraAddress, number: int) -> None:
    """Make the table of a generation. Blocks. Errors: StoreUnavailable, Forbidden."""
    run(address, [_objects_statement(generation_table(address.keyspace, number)) + _NO_SNAPSHOT])


def drop_generation(address: CassandraAddress, number: int) -> None:
    """Drop the table of a generation, and what followers stored apart. Blocks. Errors: StoreUnavailable, Forbidden."""
    keyspace = address.keyspace
    run(address, [f"DROP TABLE IF EXISTS {generation_table(keyspace, number)}", f"TRUNCATE {keyspace}.{LOOSE}"])


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
        # of the tables of generations
        f"GRANT CREATE ON KEYSPACE {keyspace} TO {writer}",
        f"GRANT DROP ON KEYSPACE {keyspace} TO {writer}",
    ]


def apply(address: CassandraAddress, replication: int = 1) -> None:
    """Make what is not there. Blocks: call it in a thread. Errors: StoreUnavailable, Forbidden."""
    run(address, statements(address.keyspace, replication), replication)


def run(address: CassandraAddress, cql: list[str], replication: int = 1) -> None:
    """Run administrative statements one after another, all by the first host that answers.

    By one host: of two that make the same table at once each would make its own. A server that refuses
    SimpleStrategy (ScyllaDB with tablets) gets `replication` copies in the data centre that it names. Blocks. Errors:
    StoreUnavailable, Forbidden.
    """

    def work(session: Any) -> None:
        for statement in cql:
            _run_one(session, address.keyspace, statement, replication)

    with_session(address, work)


def _run_one(session: Any, keyspace: str, statement: str, replication: int) -> None:
    try:
        session.execute(statement)
    except (InvalidRequest, ErrorMessage) as error:
        if statement.endswith(_NO_SNAPSHOT):
            # an option of Cassandra 4.1 and later; without it an operator has to clear snapshots
            session.execute(statement.removesuffix(_NO_SNAPSHOT))
            return
        if "SimpleStrategy" not in statement or "SimpleStrategy" not in str(error):
            raise
        centre = session.execute("SELECT data_center FROM system.local").one()[0]
        if not re.fullmatch(r"[\w .-]+", centre):
            raise
        session.execute(keyspace_statement(keyspace, replication, centre))


def with_session(address: CassandraAddress, work: Callable[[Any], None]) -> None:
    """Do `work` with a session of `cassandra-driver` at the first host that answers. Blocks. Errors: StoreUnavailable,
    Forbidden."""
    for at, host in enumerate(address.hosts):
        try:
            _with_host(host, address, work)
            return
        except _NotThere as error:
            if at + 1 == len(address.hosts):
                raise StoreUnavailable(f"{address.url} does not answer: {error}") from None


class _NotThere(Exception):
    """A host does not answer."""


def _with_host(host: str, address: CassandraAddress, work: Callable[[Any], None]) -> None:
    auth: Any = PlainTextAuthProvider(address.user, address.password) if address.user else None
    profile = ExecutionProfile(
        load_balancing_policy=WhiteListRoundRobinPolicy([host]),
        request_timeout=60,
        consistency_level=ConsistencyLevel.QUORUM,
    )
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
        work(session)
    except Unauthorized as error:
        raise Forbidden(f"{address.url}: {error}") from None
    except (NoHostAvailable, DriverException, RequestExecutionException, ErrorMessage) as error:
        raise StoreUnavailable(f"{address.url}: the schema cannot be applied: {error}") from None
    finally:
        cluster.shutdown()
