"""The data path to Cassandra: the protocol `Session` and its implementation by acsylla, over the C++ driver.

A statement is its CQL text; it is prepared once a session. Everything runs at QUORUM unless said otherwise,
over native protocol 4, which YugabyteDB, Cassandra and ScyllaDB all speak. What an error means is told by
`blockstore.cassandra.servers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar

import acsylla

from blockstore.cassandra import servers
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.servers import Meaning, Server, has_known_partitioner, meaning, server_of
from blockstore.errors import SchemaMismatch, StoreError, StoreUnavailable

T = TypeVar("T")
A = TypeVar("A")

#: requests that one call keeps under way at a time
BURST: Final = 128
#: seconds that a page of a scan may take
_SCAN_SECONDS: Final = 60.0
#: seconds before each retry
_PAUSES: Final = (0.02, 0.1, 0.4, 1.0)
#: servers must show a certificate that the CA has signed; names in it are not compared
_VERIFY: Final = acsylla.SSLVerifyFlags.PEER_CERT
_errors = acsylla.errors

#: codes of the native protocol, of which acsylla has made classes
_CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (_errors.CassErrorServerInvalidQuery, servers.INVALID),
    (_errors.CassErrorServerSyntaxError, servers.SYNTAX_ERROR),
    (_errors.CassErrorServerUnauthorized, servers.UNAUTHORIZED),
    (_errors.CassErrorServerBadCredentials, servers.BAD_CREDENTIALS),
    (_errors.CassErrorServerConfigError, servers.CONFIG_ERROR),
    (_errors.CassErrorServerAlreadyExists, servers.ALREADY_EXISTS),
    (_errors.CassErrorServerFunctionFailure, servers.FUNCTION_FAILURE),
    (_errors.CassErrorServerProtocolError, servers.PROTOCOL_ERROR),
    (_errors.CassErrorServerUnavailable, servers.UNAVAILABLE),
    (_errors.CassErrorServerOverloaded, servers.OVERLOADED),
    (_errors.CassErrorServerIsBootstrapping, servers.IS_BOOTSTRAPPING),
    (_errors.CassErrorServerUnprepared, servers.UNPREPARED),
    (_errors.CassErrorServerTruncateError, servers.TRUNCATE_ERROR),
    (_errors.CassErrorServerWriteTimeout, servers.WRITE_TIMEOUT),
    (_errors.CassErrorServerWriteFailure, servers.WRITE_FAILURE),
    (_errors.CassErrorServerReadTimeout, servers.READ_TIMEOUT),
    (_errors.CassErrorServerReadFailure, servers.READ_FAILURE),
    (_errors.CassErrorServerServerError, servers.SERVER_ERROR),
)


class SchemaMissing(StoreUnavailable):
    """The keyspace or one of its tables is not there yet."""


class OutcomeUnknown(StoreUnavailable):
    """A compare-and-set was not answered: it may or may not have been applied, now or later."""


class Forbidden(StoreError):
    """The role in use may not do this."""


class Session(Protocol):
    """What the store asks of a driver. `unsettled` counts statements without an answer: a write may land later."""

    unsettled: int

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        """The rows of one statement. `serial` reads settle compare-and-sets that are under way.

        What may be repeated is, for a second or two, while a node of the store is lost.

        Errors: OutcomeUnknown, SchemaMissing, SchemaMismatch, Forbidden, StoreUnavailable.
        """

    async def page(self, cql: str, state: bytes, size: int) -> tuple[list[list[Any]], bytes]:
        """`size` rows at most of a statement without values, and the paging state behind them (b"": no more follow).

        `state`: that of the page before, b"" for the first. For scans of whole tables. Errors: as of `execute`.
        """

    async def write_many(self, cql: str, rows: Iterable[list[Any]]) -> None:
        """Write one row after another with a statement without a condition, at most `BURST` under way at a time.

        After the first error nothing new is begun; it is raised when nothing is under way any more. Errors: as of
        `execute`.
        """
        await burst(lambda values: self.execute(cql, values), rows)

    async def close(self) -> None:
        """Close every connection."""


def refusal_text(address: CassandraAddress) -> str:
    """What to say when a server refuses the credentials. Never the password."""
    who = f"the password of user {address.user!r}, or the user" if address.user else "users without a name"
    return f"{address.url} refuses {who}"


def error_of(server: Server, code: int, text: str, url: str, *, conditional: bool) -> StoreError:
    """The error to raise for what a server told. A compare-and-set is settled only by an answer to it."""
    told = meaning(server, code, text)
    if told is Meaning.FORBIDDEN:
        return Forbidden(f"{url}: {text}")
    if told is Meaning.OTHER_SCHEMA:
        return SchemaMismatch(f"{url} was made by another version: {text}")
    if told is Meaning.NOT_MADE:
        return SchemaMissing(f"{url} has not been made yet")
    if told is Meaning.REFUSED:
        return StoreError(f"{url} refuses a statement: {text}")
    text = f"{url} cannot be used: {text}"
    return OutcomeUnknown(text) if conditional else StoreUnavailable(text)


def _code(error: Exception) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), servers.NO_ANSWER)


#: which server was found at a URL. The first session asks; those that a process opens later need not
_known: dict[str, Server] = {}


class AcsyllaSession(Session):
    """A `Session` of acsylla. Bound to the event loop that opened it."""

    def __init__(self, session: Any, url: str, server: Server = Server.UNKNOWN) -> None:
        self._session = session
        self._url = url
        self.server = server
        self.unsettled = 0
        self._prepared: dict[str, Any] = {}

    @classmethod
    async def open(cls, address: CassandraAddress) -> AcsyllaSession:
        """Errors: StoreUnavailable, Forbidden (the server refuses name or password), StoreError (TLS files)."""
        server = _known.get(address.url)
        if server is None:
            session = await cls._connected(address, Server.UNKNOWN)
            try:
                server = await session._ask_server()
            except BaseException:
                await session.close()
                raise
            _known[address.url] = session.server = server
            if not has_known_partitioner(server):
                return session
            await session.close()
        return await cls._connected(address, server)

    @classmethod
    async def _connected(cls, address: CassandraAddress, server: Server) -> AcsyllaSession:
        options: dict[str, Any] = {"username": address.user, "password": address.password} if address.user else {}
        if address.tls is not None:
            ca, cert, key = await asyncio.to_thread(address.tls.texts)
            options |= {"ssl_enabled": True, "ssl_trusted_cert": ca, "ssl_verify_flags": _VERIFY}
            if cert:
                options |= {"ssl_cert": cert, "ssl_private_key": key}
        try:
            cluster = acsylla.create_cluster(
                list(address.hosts),
                port=address.port,
                protocol_version=4,
                consistency=acsylla.Consistency.QUORUM,
                serial_consistency=acsylla.Consistency.SERIAL,
                log_level="critical",  # what fails is raised; the rest is noise about ScyllaDB shards
                use_schema=True,
                token_aware_routing=has_known_partitioner(server),
                # write times are this process's, never going back, and not those of whichever node takes a write
                timestamp_gen="monotonic",
                **options,
            )
            return cls(await cluster.create_session(), address.url, server)
        except _errors.CassErrorServerBadCredentials:
            raise Forbidden(refusal_text(address)) from None
        except _errors.CassException as error:
            raise StoreUnavailable(f"{address.url} does not answer: {error}") from None

    async def _ask_server(self) -> Server:
        """Errors: as of `execute`."""
        local = await self.execute("SELECT partitioner FROM system.local")
        names = await self.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?", ["system"])
        return server_of(str(local[0][0]) if local else "", {str(row[0]) for row in names})

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        conditional = " IF " in cql
        # requests to a node that dies fail; all but compare-and-sets can be retried
        pauses = iter(() if conditional else _PAUSES)
        while True:
            try:
                return await self._once(cql, values, serial, not conditional)
            except asyncio.CancelledError:
                self.unsettled += 1
                raise
            except _errors.CassException as error:
                self.unsettled += 1
                raised = error_of(self.server, _code(error), str(error), self._url, conditional=conditional)
            pause = next(pauses, None)
            if pause is None or type(raised) is not StoreUnavailable:
                raise raised
            await asyncio.sleep(pause)

    async def page(self, cql: str, state: bytes, size: int) -> tuple[list[list[Any]], bytes]:
        statement = acsylla.create_statement(cql)
        statement.set_page_size(size)
        statement.set_is_idempotent(True)
        statement.set_timeout(_SCAN_SECONDS)
        if state:
            statement.set_page_state(state)
        pauses = iter(_PAUSES)
        while True:
            try:
                result = await self._session.execute(statement)
            except _errors.CassException as error:
                raised = error_of(self.server, _code(error), str(error), self._url, conditional=False)
            else:
                rows = [row.as_list() for row in result] if result.count() else []
                return rows, bytes(result.page_state()) if result.has_more_pages() else b""
            pause = next(pauses, None)
            if pause is None or type(raised) is not StoreUnavailable:
                raise raised
            await asyncio.sleep(pause)

    async def write_many(self, cql: str, rows: Iterable[list[Any]]) -> None:
        prepared: Any = self._prepared.get(cql)
        if prepared is None:
            # the first one tells what is wrong with the statement
            source = iter(rows)
            for values in source:
                await self.execute(cql, values)
                break
            rows, prepared = source, self._prepared.get(cql)
        execute = self._session.execute

        async def write(values: list[Any]) -> None:
            # as `_once` does it, with nothing between: an import writes tens of thousands a second
            statement = prepared.bind()
            statement.bind_list(values)
            statement.set_is_idempotent(True)
            try:
                await execute(statement)
            except _errors.CassException:
                # once more, as patiently as any other
                self.unsettled += 1
                await self.execute(cql, values)
            except asyncio.CancelledError:
                self.unsettled += 1
                raise

        await burst(write, rows)

    async def _once(self, cql: str, values: Sequence[Any], serial: bool, idempotent: bool) -> list[list[Any]]:
        prepared = self._prepared.get(cql)
        if prepared is None:
            prepared = self._prepared[cql] = await self._session.create_prepared(cql)
        statement = prepared.bind()
        statement.bind_list(values if type(values) is list else list(values))
        if serial:
            statement.set_consistency(acsylla.Consistency.SERIAL)
        if idempotent:
            statement.set_is_idempotent(True)
        result = await self._session.execute(statement)
        return [row.as_list() for row in result] if result.count() else []

    async def close(self) -> None:
        await self._session.close()


async def burst(work: Callable[[A], Awaitable[T]], items: Iterable[A]) -> list[T]:
    """`work` of every item, in order, at most `BURST` of them under way at a time.

    After the first error nothing new is begun; it is raised when nothing is under way any more.
    """
    source: Iterator[tuple[int, A]] = enumerate(items)
    found: dict[int, T] = {}
    failed: list[BaseException] = []

    async def worker() -> None:
        # a task a worker, not one an item: half the cost
        for at, item in source:
            if failed:
                return
            try:
                found[at] = await work(item)
            except BaseException as error:
                failed.append(error)
                raise

    first = list(islice(source, BURST))
    source = chain(first, source)
    if len(first) < 2:
        await worker()
    else:
        await asyncio.gather(*(worker() for _ in first), return_exceptions=True)
    if failed:
        raise failed[0]
    return [found[at] for at in range(len(found))]
