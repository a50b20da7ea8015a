"""Installed filters: their rows in the store. No process keeps one in memory, so any follower answers a poll.

A poll reads the filter's row, finds the changes since its cursor, and swaps the row for one with a newer cursor: of
several polls at once, on whatever followers, one reports each change. Ids are Lotus' (a random UUID and sixteen
zeros); their first byte is the partition.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from blockstore.store import FILTERS, Store
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode, encode
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import LimitExceeded, MethodError, Unavailable, limit_data
from rpc.lookup.filters.filter_shares import NOBODY, FilterLimits, HeldFilter, Owner, make_room, owner_of
from rpc.lookup.head_changes import Cursor
from rpc.params import EthHash, param_of

#: partitions that filters are spread over, and how many are looked into for a free place
_PARTITIONS: Final = 64
_TRIES: Final = 4
#: filters of a partition, before more partitions are used
_CROWD: Final = 16
#: bytes of a filter's row
_LARGEST: Final = 64 << 10
#: a poll that finds nothing writes nothing until so much of the filter's life has passed
_TOUCH: Final = 8

_HASH: Final = param_of("id", EthHash)

NO_MEMPOOL: Final = (
    "not supported: pending transactions are known to the full node that has them in its mempool, not to this follower"
)
TOO_MANY_OF_CONNECTION: Final = "too many subscriptions and filters per connection"

LOGS: Final = "logs"
BLOCKS: Final = "blocks"
#: pending transactions; its cursor's `seq` is a time, ms since 1970
PENDING: Final = "pending"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The query of a log filter. `high` is -1 for no end; `block_hash` stands instead of epochs."""

    low: int = 0
    high: int = -1
    block_hash: bytes | None = None
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class FilterState:
    """One filter. `has_history`: the logs below the cursor's tipset are still to be returned.

    `polled_ms` is the time of the last poll, milliseconds since 1970; `owner` is who installed it.
    """

    kind: str
    cursor: Cursor
    polled_ms: int
    has_history: bool = False
    query: LogQuery = LogQuery()
    owner: Owner = NOBODY


class _Id:
    """An id as a parameter: 32 bytes, 0x-hex."""

    def __init__(self, go: str) -> None:
        self.go = go

    def decode(self, value: Any) -> bytes:
        """Errors: ValueError."""
        decoded: bytes = _HASH.decode(value)
        return decoded


FilterId = Annotated[bytes, _Id("ethtypes.EthFilterID")]
SubscriptionId = Annotated[bytes, _Id("ethtypes.EthSubscriptionID")]


class FilterNotFound(MethodError):
    """No such filter, or not any more."""

    def __init__(self) -> None:
        super().__init__("filter not found")


def new_id() -> bytes:
    """An id of a filter or subscription: 16 random bytes and 16 zeros, as Lotus has them."""
    return uuid.uuid4().bytes + bytes(16)


def encode_state(state: FilterState) -> bytes:
    """A filter's row. No two are the same: what is swapped is known by its value."""
    cursor, query = state.cursor, state.query
    return encode(
        [
            state.kind,
            [cursor.seq, cursor.step, cursor.height, bytes(cursor.key)],
            state.polled_ms,
            state.has_history,
            [query.low, query.high, query.block_hash, query.addresses, query.topics],
            list(state.owner),
            secrets.token_bytes(8),
        ]
    )


def decode_state(raw: bytes) -> FilterState:
    """What `encode_state` made. Errors: BadObject."""
    try:
        kind, (seq, step, height, key), polled, history, query, owner, _ = decode(raw)
        low, high, block_hash, addresses, topics = query
        return FilterState(
            kind,
            Cursor(seq, step, height, TipsetKey(key)),
            polled,
            history,
            LogQuery(low, high, block_hash, tuple(addresses), tuple(tuple(some) for some in topics)),
            Owner(*owner),
        )
    except (ValueError, TypeError) as error:
        raise BadObject(f"not a filter: {error}") from None


def _now() -> int:
    return time.time_ns() // 1_000_000


class Filters:
    """The filters in a store. `now` is milliseconds since 1970; followers' clocks need not agree to the second."""

    def __init__(self, store: Store, limits: FilterLimits | None = None, now: Callable[[], int] = _now) -> None:
        self.limits = limits or FilterLimits()
        self._store = store
        self._now = now
        #: few filters stay together, so that their number can be bounded exactly
        self._partitions = max(1, min(_PARTITIONS, self.limits.total // _CROWD))
        self._most = max(1, self.limits.total // self._partitions)

    async def install(self, state: FilterState, client: str = "") -> bytes:
        """Store a new filter of `client` (its address), polled now; its id.

        Removes expired ones beside it, and the one that `make_room` names. Installs at the same moment may pass the
        bounds, by their number. Errors: LimitExceeded (the filter is too large, or the client or its network has too
        many), MethodError (there are too many), StoreError.
        """
        owner = owner_of(client)
        raw = encode_state(replace(state, polled_ms=self._now(), owner=owner))
        if len(raw) > _LARGEST:
            text = f"the filter is too large: {len(raw)} bytes, at most {_LARGEST}"
            raise LimitExceeded(text, limit_data("filter_bytes", _LARGEST, len(raw)))
        # the filters of a network stand in the same few partitions, and are counted there
        numbers = random.Random(owner.network or None).sample(range(self._partitions), min(_TRIES, self._partitions))
        partitions = [bytes((number,)) for number in numbers]
        parts = await asyncio.gather(*(self._held_in(partition) for partition in partitions))
        rooms = sorted((count, partition) for (count, _), partition in zip(parts, partitions, strict=True))
        held = [one for _, some in parts for one in some]
        leaving = make_room(held, owner, self.limits, self._now(), rooms[0][0] >= self._most)
        if leaving is not None and await self._store.swap(
            FILTERS, leaving.partition, leaving.filter_id, leaving.raw, None
        ):
            rooms = sorted((count - (partition == leaving.partition), partition) for count, partition in rooms)
        for count, partition in rooms:
            if count < self._most:
                filter_id = bytes((partition[0] + secrets.randbelow(256 // _PARTITIONS) * _PARTITIONS,)) + new_id()[1:]
                if await self._store.swap(FILTERS, partition, filter_id, None, raw):
                    return filter_id
        raise MethodError("maximum number of filters registered")

    async def _held_in(self, partition: bytes) -> tuple[int, list[HeldFilter]]:
        """(the number of filters in a partition, those that can be read); what has expired is removed."""
        count = 0
        found: list[HeldFilter] = []
        for key, raw in await self._store.scan(FILTERS, partition, limit=2 * self._most):
            try:
                state = decode_state(raw)
            except BadObject:
                count += 1  # of another version, which knows when it ends
                continue
            if self._is_expired(state):
                await self._store.swap(FILTERS, partition, key, raw, None)
            else:
                count += 1
                found.append(HeldFilter(partition, key, raw, state.owner, state.polled_ms))
        return count, found

    def _is_expired(self, state: FilterState) -> bool:
        return state.polled_ms + self.limits.ttl_seconds * 1000 < self._now()

    async def read(self, filter_id: bytes) -> tuple[bytes, FilterState]:
        """A filter's row, raw and read. Errors: FilterNotFound, StoreError."""
        raw = await self._store.row(FILTERS, _partition(filter_id), filter_id)
        if raw is None:
            raise FilterNotFound
        try:
            state = decode_state(raw)
        except BadObject as error:
            # of another version: clients install a filter anew that is not found
            raise FilterNotFound from error
        if self._is_expired(state):
            raise FilterNotFound
        return raw, state

    async def advance(self, filter_id: bytes, raw: bytes, before: FilterState, after: FilterState) -> bool:
        """Store the filter as it is after a poll. False: another poll was first. Errors: StoreError."""
        now = self._now()
        if after == before and now - before.polled_ms < self.limits.ttl_seconds * 1000 / _TOUCH:
            return True
        value = encode_state(replace(after, polled_ms=now))
        return await self._store.swap(FILTERS, _partition(filter_id), filter_id, raw, value)

    async def remove(self, filter_id: bytes) -> bool:
        """Forget a filter; whether there was one. Errors: StoreError, Unavailable (polled all the time)."""
        for _ in range(_TRIES):
            try:
                raw, _ = await self.read(filter_id)
            except FilterNotFound:
                return False
            if await self._store.swap(FILTERS, _partition(filter_id), filter_id, raw, None):
                return True
        raise Unavailable("the filter is polled by others at the same time")


def _partition(filter_id: bytes) -> bytes:
    return bytes((filter_id[0] % _PARTITIONS,))


def filters_of(ctx: Context) -> Filters:
    """The process's view of the store's filters."""
    found: Filters | None = ctx.caches.get("eth_filters")
    if found is None:
        found = ctx.caches["eth_filters"] = Filters(ctx.store, ctx.extra.get("eth_filter_limits"))
    return found
