"""The data path to Cassandra: the protocol `Session` and its implementation by acsylla, over the C++ driver.

A statement is its CQL text; it is prepared once a session. Everything runs at QUORUM unless said otherwise,
over native protocol 4, which YugabyteDB, Cassandra and ScyllaDB all speak.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar

import acsylla

from blockstore.cassandra.address import CassandraAddress
from blockstore.errors import SchemaMismatch, StoreError, StoreUnavailable

T = TypeVar("T")
A = TypeVar("A")

#: requests that one call keeps under way at a time
BURST: Final = 128
#: seconds before each retry
_PAUSES: Final = (0.02, 0.1, 0.4, 1.0)
#: servers must show a certificate that the CA has signed; names in it are not compared
_VERIFY: Final = acsylla.SSLVerifyFlags.PEER_CERT
_errors = acsylla.errors


class SchemaMissing(StoreUnavailable):
    """The keyspace or one of its tables is not there yet."""


class OutcomeUnknown(StoreUnavailable):
    """A compare-and-set was not answered: it may or may not have been applied, now or later."""


class Forbidden(StoreError):
    """The role in use may not do this."""


class Session(Protocol):
    """What the store asks of a driver."""

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        """The rows of one statement. `serial` reads settle compare-and-sets that are under way.

        What may be repeated is, for a second or two, while a node of the store is lost.

        Errors: OutcomeUnknown, SchemaMissing, SchemaMismatch, Forbidden, StoreUnavailable.
        """

    async def close(self) -> None:
        """Close every connection."""


def refusal_text(address: CassandraAddress) -> str:
    """What to say when a server refuses the credentials. Never the password."""
    who = f"the password of user {address.user!r}, or the user" if address.user else "users without a name"
    return f"{address.url} refuses {who}"


class AcsyllaSession:
    """A `Session` of acsylla. Bound to the event loop that opened it."""

    def __init__(self, session: Any, url: str) -> None:
        self._session = session
        self._url = url
        self._prepared: dict[str, Any] = {}

    @classmethod
    async def open(cls, address: CassandraAddress) -> AcsyllaSession:
        """Errors: StoreUnavailable, Forbidden (the server refuses name or password), StoreError (TLS files)."""
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
                **options,
            )
            return cls(await cluster.create_session(), address.url)
        except _errors.CassErrorServerBadCredentials:
            raise Forbidden(refusal_text(address)) from None
        except _errors.CassException as error:
            raise StoreUnavailable(f"{address.url} does not answer: {error}") from None

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        conditional = " IF " in cql
        # requests to a node that dies fail; all but compare-and-sets can be retried
        pauses = iter(() if conditional else _PAUSES)
        while True:
            try:
                return await self._once(cql, values, serial, not conditional)
            except _errors.CassErrorServerUnauthorized as error:
                raise Forbidden(f"{self._url}: {error}") from None
            except _errors.CassErrorServerInvalidQuery as error:
                text = str(error)
                if "undefined column" in text.lower():
                    raise SchemaMismatch(f"{self._url} was made by another version: {text}") from None
                if "does not exist" in text or "unconfigured table" in text.lower() or "undefined" in text.lower():
                    raise SchemaMissing(f"{self._url} has not been made yet") from None
                raise StoreError(f"{self._url} refuses a statement: {text}") from None
            except _errors.CassException as error:
                pause = next(pauses, None)
                if pause is None:
                    text = f"{self._url} cannot be used: {error}"
                    raise (OutcomeUnknown(text) if conditional else StoreUnavailable(text)) from None
            await asyncio.sleep(pause)

    async def _once(self, cql: str, values: Sequence[Any], serial: bool, idempotent: bool) -> list[list[Any]]:
        prepared = self._prepared.get(cql)
        if prepared is None:
            prepared = self._prepared[cql] = await self._session.create_prepared(cql)
        statement = prepared.bind()
        statement.bind_list(values)
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
