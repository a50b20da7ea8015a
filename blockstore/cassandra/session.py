"""The data path to Cassandra: one small seam, `Session`, and what stands behind it (acsylla, over the C++ driver).

A statement is its CQL text; it is prepared once a session. Everything runs at QUORUM unless said otherwise,
over native protocol 4, which YugabyteDB, Cassandra and ScyllaDB all speak.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote

import acsylla

from blockstore.errors import StoreError, StoreUnavailable

T = TypeVar("T")
A = TypeVar("A")

#: requests that one call keeps under way at a time
BURST: Final = 128
#: seconds before what failed is asked again, each time
_PAUSES: Final = (0.02, 0.1, 0.4, 1.0)
_errors = acsylla.errors


class NotMade(StoreUnavailable):
    """The keyspace or one of its tables is not there yet."""


class Unsettled(StoreUnavailable):
    """A compare-and-set was not answered: it may or may not have been applied, now or later."""


class Forbidden(StoreError):
    """The role in use may not do this."""


class Session(Protocol):
    """What the store asks of a driver."""

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        """The rows of one statement. `serial` reads settle compare-and-sets that are under way.

        What may be repeated is, for a second or two, while a node of the store is lost.

        Errors: Unsettled, NotMade, Forbidden, StoreUnavailable.
        """

    async def close(self) -> None:
        """Close every connection."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: `cassandra://[user:password@]host[,host][:port]/keyspace`."""

    hosts: tuple[str, ...]
    port: int
    keyspace: str
    user: str = ""
    password: str = ""

    @property
    def url(self) -> str:
        """The URL without credentials."""
        return f"cassandra://{','.join(self.hosts)}:{self.port}/{self.keyspace}"

    @classmethod
    def parse(cls, url: str) -> Place:
        """Errors: StoreError, which never repeats the credentials."""
        scheme, _, rest = url.partition("://")
        credentials, at, rest = rest.rpartition("@")
        found = re.fullmatch(r"([^/:]+)(?::(\d{1,5}))?/([a-z][a-z0-9_]{0,47})", rest)
        if scheme != "cassandra" or found is None or (at and ":" not in credentials):
            raise StoreError(f"{rest!r} is not a place of cassandra://[user:password@]host[,host][:port]/keyspace")
        user, _, password = credentials.partition(":")
        hosts = tuple(host for host in found[1].split(",") if host)
        if not hosts:
            raise StoreError(f"{rest!r} names no host")
        return cls(hosts, int(found[2] or 9042), found[3], unquote(user), unquote(password))


def refusal(place: Place) -> str:
    """What is told of a server that does not let us in. Never the password."""
    who = f"the password of user {place.user!r}, or the user" if place.user else "users without a name"
    return f"{place.url} refuses {who}"


class AcsyllaSession:
    """A `Session` of acsylla. Bound to the event loop that opened it."""

    def __init__(self, session: Any, url: str) -> None:
        self._session = session
        self._url = url
        self._prepared: dict[str, Any] = {}

    @classmethod
    async def open(cls, place: Place) -> AcsyllaSession:
        """Errors: StoreUnavailable, Forbidden (the name or the password is wrong)."""
        credentials = {"username": place.user, "password": place.password} if place.user else {}
        try:
            cluster = acsylla.create_cluster(
                list(place.hosts),
                port=place.port,
                protocol_version=4,
                consistency=acsylla.Consistency.QUORUM,
                serial_consistency=acsylla.Consistency.SERIAL,
                log_level="critical",  # what fails is raised; the rest is noise about ScyllaDB shards
                use_schema=True,
                **credentials,
            )
            return cls(await cluster.create_session(), place.url)
        except _errors.CassErrorServerBadCredentials:
            raise Forbidden(refusal(place)) from None
        except _errors.CassException as error:
            raise StoreUnavailable(f"{place.url} does not answer: {error}") from None

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        conditional = " IF " in cql
        # a node that dies takes with it what it was asked: all but compare-and-sets can be asked again
        pauses = iter(() if conditional else _PAUSES)
        while True:
            try:
                return await self._once(cql, values, serial, not conditional)
            except _errors.CassErrorServerUnauthorized as error:
                raise Forbidden(f"{self._url}: {error}") from None
            except _errors.CassErrorServerInvalidQuery as error:
                text = str(error)
                if "does not exist" in text or "unconfigured table" in text.lower() or "undefined" in text.lower():
                    raise NotMade(f"{self._url} has not been made yet") from None
                raise StoreError(f"{self._url} refuses a statement: {text}") from None
            except _errors.CassException as error:
                pause = next(pauses, None)
                if pause is None:
                    told = f"{self._url} cannot be used: {error}"
                    raise (Unsettled(told) if conditional else StoreUnavailable(told)) from None
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
