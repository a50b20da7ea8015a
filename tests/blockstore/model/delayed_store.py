"""A shared store whose writes take effect late, in any order, or not at all.

`Server` holds what a cluster has acknowledged; `DelayedSession` stands where the driver stands, under the real
`CassandraStore`. A write is visible and durable when it is acknowledged, not before: each after a delay of its own.
Some fail (never applied), some time out (applied later, or never), some reads fail. Cells keep the newest write by
the time at which it was sent, as Cassandra's do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.schema import SCHEMA_VERSION
from blockstore.cassandra.session import Session
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreUnavailable
from blockstore.store import META, Batch
from tests.blockstore.model.server import WALL_AT_START, Server, Statement, parse, wall_ms
from tests.support.virtual_time import virtual_ms

__all__ = ["WALL_AT_START", "DelayedSession", "Server", "Weather", "made", "store_over"]


@dataclass(slots=True)
class Weather:
    """How one session fares. Milliseconds and chances; `breaks(cql)` True: this statement fails now."""

    write_ms: int = 500
    read_ms: int = 50
    slow_reads: float = 0.1
    fail: float = 0.0
    time_out: float = 0.0
    fail_reads: float = 0.0
    breaks: Callable[[str], bool] = lambda _: False


class DelayedSession(Session):
    """A `Session` over a `Server`. Its clock is the running loop's."""

    def __init__(self, server: Server, weather: Weather, seed: int, clock_ahead: int = 0) -> None:
        self.server = server
        self.weather = weather
        self.clock_ahead = clock_ahead
        self.failed = self.unsettled = 0
        self._rng = random.Random(seed)
        self._late: set[asyncio.Task[None]] = set()

    def wall(self) -> int:
        """This machine's clock, milliseconds."""
        return WALL_AT_START + virtual_ms() + self.clock_ahead

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        if "toUnixTimestamp" in cql:
            return [[wall_ms()]]
        statement, w, rng = parse(cql), self.weather, self._rng
        if statement.verb == "read":
            if rng.random() < w.slow_reads:
                await asyncio.sleep(rng.random() * w.read_ms / 1000)
            if w.breaks(cql) or rng.random() < w.fail_reads:
                self.failed += 1
                raise StoreUnavailable("a read fails")
            return self.server.apply(statement, values, 0, serial=serial)
        sent = self.server.stamp()
        fate = rng.random()
        await asyncio.sleep(rng.random() * w.write_ms / 1000)
        rules = self.server.rules
        if w.breaks(cql) or fate < w.fail:
            self.failed += 1
            raise self.server.error(*rules.failed, conditional=statement.conditional)
        if fate < w.fail + w.time_out:
            self.failed += 1
            self.unsettled += 1
            self._land_later(statement, list(values), sent)
            raise self.server.error(*rng.choice(rules.timed_out), conditional=statement.conditional)
        return self.server.apply(statement, values, sent)

    def _land_later(self, statement: Statement, values: list[Any], sent: int) -> None:
        late = self.server.later(statement, values, sent, lands=self._rng.random() < 0.5)

        async def land() -> None:
            await asyncio.sleep(self._rng.random() * self.server.rules.lands_within_ms / 1000)
            self.server.land(late)

        task = asyncio.create_task(land())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def store_over(
    session: DelayedSession,
    delta_ms: int,
    epsilon_ms: int,
    kind: type[CassandraStore] = CassandraStore,
    log: type[Any] = CassandraHeadLog,
) -> CassandraStore:
    """The real store over such a session."""
    place = CassandraAddress.parse("cassandra://delayed/ks")
    return kind(session, place, log(session, "ks", delta_ms, epsilon_ms, session.wall), readonly=False)


async def made(server: Server, delta_ms: int, epsilon_ms: int, log: type[Any] = CassandraHeadLog) -> None:
    """What a first writer writes."""
    session = DelayedSession(server, Weather(write_ms=0), 0)
    store = store_over(session, delta_ms, epsilon_ms, log=log)
    await store._log.make()
    batch = Batch()
    batch.put(META, b"", b"\0schema", b"%d" % SCHEMA_VERSION)
    await store.write(batch)
