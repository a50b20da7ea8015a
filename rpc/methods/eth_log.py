"""Events by filter: `eth_getLogs`, and `GetActorEventsRaw` for actors of every kind.

They are read from the tipsets themselves: keys of the range from the rows of its epochs, headers, receipts and
events in bursts. A range that is not held is an error, never a shorter list. Limits, order and texts are Lotus',
`node/impl/eth/events.go`, `node/impl/full/actor_events.go`, `chain/index/events.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from blockstore.cid import RAW, Cid
from blockstore.errors import Missing
from blockstore.store import HEIGHTS
from chain.address import Address
from chain.errors import BadAddress, BadRequest, ChainError, NotFound, NotHeld
from chain.eth_types import INDEXED, cid_of_hash, filecoin_address
from chain.index import HEIGHT_BUCKET
from chain.message import EventEntry
from chain.tipset import EMPTY_KEY, Tipset, TipsetKey
from rpc import eth_json
from rpc.context import Context
from rpc.errors import LimitExceeded, MethodError
from rpc.methods.eth_block import EVERY
from rpc.methods.eth_read import (
    Executed,
    Post,
    TipsetEvent,
    events_of,
    executed,
    log_from,
    message_hash,
    post_of,
    raw_entries,
    yield_now,
)
from rpc.methods.eth_select import by_hash, canonical
from rpc.params import EthAddress, EthHash, EthUint64, mismatch, param_of
from rpc.registry import V0, V1, Cost, method

#: epochs of a range, and results from more than one tipset, as a node has them by default
MAX_RANGE: Final = 2880
MAX_RESULTS: Final = 10_000
MAX_TOPICS: Final = 4
#: addresses, and values of one topic, that a filter may name
MAX_NAMED: Final = 10_000
#: tipsets whose headers and receipts are read together
_TOGETHER: Final = 32

_TOO_MANY: Final = "filter matches too many events, try a more restricted filter"
_NOT_YET: Final = "events for the requested block are not yet available"

_HASH: Final = param_of("hash", EthHash)
_ADDRESS: Final = param_of("address", EthAddress)


# --- which events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an event must be. `keys`: for each, the (codec, value) pairs one of which an indexed entry must have.

    An address is an actor's ID, or its delegated address; where both kinds are named an event must match one of
    each, as in Lotus. `codec`: without keys, entries of this codec alone are looked at and shown.
    """

    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()
    keys: Mapping[str, frozenset[tuple[int, bytes]]] = field(default_factory=dict)
    codec: int | None = None

    def entries(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event; none, where it is not wanted."""
        if self.ids and event.emitter not in self.ids:
            return ()
        if self.delegated and event.address not in self.delegated:
            return ()
        if self.keys:
            for key, values in self.keys.items():
                if values and not any(
                    entry.key == key and entry.flags & INDEXED and (entry.codec, entry.value) in values
                    for entry in event.entries
                ):
                    return ()
        elif self.codec == RAW:
            return raw_entries(event)
        return event.entries


def wanted_of(
    addresses: Sequence[Address],
    keys: Mapping[str, frozenset[tuple[int, bytes]]],
    codec: int | None = None,
) -> Wanted:
    """Errors: BadRequest (an address of another kind)."""
    for address in addresses:
        if address.protocol not in (0, 4):
            raise BadRequest(f"can only query events by ID or Delegated addresses; but request has address: {address}")
    return Wanted(
        frozenset(address.id for address in addresses if address.is_id),
        frozenset(bytes(address) for address in addresses if not address.is_id),
        keys,
        codec,
    )


# --- which tipsets -------------------------------------------------------------------------------------


async def tipsets_between(ctx: Context, low: int, high: int) -> list[tuple[Tipset, Post]]:
    """The tipsets of the head's chain from epoch `low` to `high` (below the head's), rising, each with what is
    there after it. Errors: NotHeld."""
    head = (await ctx.head()).tipset
    if low > high or low >= head.height:
        return []
    child = await ctx.index.at_height(head, min(high + 1, head.height), previous=False)
    await _read_headers(ctx, max(low, 0), min(high, head.height))
    found: list[tuple[Tipset, Post]] = []
    while child.height > 0:
        tipset = await ctx.index.parent(child)
        if tipset.height < low:
            break
        found.append((tipset, Post(child.parent_state_root, child.parent_message_receipts)))
        child = tipset
        if len(found) % 256 == 0:
            await yield_now()
    return found[::-1]


async def _read_headers(ctx: Context, low: int, high: int) -> None:
    """Have the headers of a range of epochs read in bursts: they are then found in the cache one by one."""
    cids: list[Cid] = []
    for bucket in range(low // HEIGHT_BUCKET, high // HEIGHT_BUCKET + 1):
        start, end = max(low, bucket * HEIGHT_BUCKET), min(high + 1, (bucket + 1) * HEIGHT_BUCKET)
        key = start.to_bytes(8, "big")
        while True:
            rows = await ctx.store.scan(HEIGHTS, bucket.to_bytes(8, "big"), start=key, end=end.to_bytes(8, "big"))
            cids += [cid for _, value in rows for cid in TipsetKey(value).cids]
            if len(rows) < 1000:
                break
            key = rows[-1][0] + b"\0"
    for at in range(0, len(cids), 512):
        try:
            await ctx.objects.get_many(cids[at : at + 512])
        except Missing:
            return  # of a fork, perhaps: what the chain itself lacks is said where it is needed


@dataclass(frozen=True, slots=True)
class Matched:
    """The events of one tipset that a filter wants, each with the entries to show."""

    tipset: Tipset
    post: Post
    events: Sequence[tuple[TipsetEvent, Sequence[EventEntry]]]


async def matches(ctx: Context, tipsets: Sequence[tuple[Tipset, Post]], wanted: Wanted) -> AsyncIterator[Matched]:
    """What a filter finds in these tipsets, in their order; a few are read at once. Errors: NotHeld."""
    for at in range(0, len(tipsets), _TOGETHER):
        some = tipsets[at : at + _TOGETHER]
        await _read_receipts(ctx, [post.receipts for _, post in some])
        read = await asyncio.gather(*(events_of(ctx, tipset, post) for tipset, post in some))
        for (tipset, post), events in zip(some, read, strict=True):
            found = [(event, entries) for event in events if (entries := wanted.entries(event))]
            if found:
                yield Matched(tipset, post, found)
        await yield_now()


async def _read_receipts(ctx: Context, roots: Sequence[Cid]) -> None:
    try:
        await ctx.objects.get_many(roots)
    except Missing:
        return  # said with its epoch where it is decoded


async def collect(ctx: Context, tipsets: Sequence[tuple[Tipset, Post]], wanted: Wanted) -> list[Matched]:
    """All that a filter finds. Errors: MethodError (over 10,000 from more than one tipset), NotHeld."""
    found: list[Matched] = []
    count = 0
    async for one in matches(ctx, tipsets, wanted):
        found.append(one)
        count += len(one.events)
        if len(found) > 1 and count > MAX_RESULTS:
            raise MethodError(f"failed to get events: {_TOO_MANY}")
    return found


# --- eth_getLogs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter as clients write it. `topics`: for each place the values one of which is wanted, empty for any."""

    low: str | None = None
    high: str | None = None
    block_hash: bytes | None = None
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()


def _several(value: Any, decode: Any, go: str) -> tuple[bytes, ...]:
    """One value, or an array of them; null for none. Errors: ValueError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return (decode(value),)
    if len(value) > MAX_NAMED:
        raise ValueError(f"more than {MAX_NAMED} items in a {go}")
    return tuple(decode(item) for item in value)


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(str(mismatch(value, "string")).replace("Go value", f"Go struct field EthFilterSpec.{name}"))
    return value


class _FilterDecoder:
    go = "*ethtypes.EthFilterSpec"

    def decode(self, value: Any) -> LogFilter | None:
        """Errors: ValueError."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise mismatch(value, "ethtypes.EthFilterSpec")
        fields = {name.lower(): item for name, item in value.items()}
        topics = fields.get("topics")
        if topics is not None and not isinstance(topics, list):
            raise mismatch(topics, "ethtypes.EthTopicSpec")
        digest = fields.get("blockhash")
        return LogFilter(
            _text(fields.get("fromblock"), "fromBlock"),
            _text(fields.get("toblock"), "toBlock"),
            None if digest is None else _HASH.decode(digest),
            _several(fields.get("address"), _ADDRESS.decode, "ethtypes.EthAddressList"),
            tuple(_several(item, _HASH.decode, "ethtypes.EthHashList") for item in topics or ()),
        )


FilterParam = Annotated[LogFilter | None, _FilterDecoder()]


def _epoch(text: str, name: str) -> int:
    if not text.startswith("0x"):
        raise BadRequest(f"{name} is not a hex")
    digits = text.replace("0x", "")
    try:
        number: int = param_of("epoch", EthUint64).decode("0x" + digits)
    except ValueError:
        raise BadRequest("invalid epoch") from None
    if number >= 1 << 63:
        raise BadRequest("invalid epoch")
    return number


def block_range(newest: int, low: str | None, high: str | None) -> tuple[int, int]:
    """(first epoch, last epoch or -1 for the newest) of a range. Errors: BadRequest, LimitExceeded."""
    first = newest if low in (None, "", "latest") else 0 if low == "earliest" else _epoch(low or "", "FromBlock")
    last = -1 if high in (None, "", "latest") else 0 if high == "earliest" else _epoch(high or "", "ToBlock")
    if 0 <= last < first:
        raise BadRequest(f"invalid epoch range: to block ({last}) must be after from block ({first})")
    span = (newest if last == -1 else last) - first
    if span > MAX_RANGE:
        raise LimitExceeded(f"block range exceeds maximum of {MAX_RANGE} (got {span})")
    return first, last


def _wanted(wanted: LogFilter) -> Wanted:
    addresses: list[Address] = []
    for address in wanted.addresses:
        try:
            addresses.append(filecoin_address(address))
        except BadAddress:
            raise BadRequest(f"invalid address {address.hex()}") from None
    if len(wanted.topics) > MAX_TOPICS:
        raise BadRequest(f"too many topics in filter: {len(wanted.topics)}, max: {MAX_TOPICS}")
    keys = {
        f"t{at}": frozenset((RAW, value) for value in values) for at, values in enumerate(wanted.topics, 1) if values
    }
    return wanted_of(addresses, keys, RAW)


async def _one_tipset(ctx: Context, digest: bytes) -> list[tuple[Tipset, Post]]:
    """Errors: BadRequest (its events are not there yet), NotFound, NotHeld."""
    try:
        tipset = await by_hash(ctx, digest)
    except NotFound:
        cid = cid_of_hash(digest)
        text = f"failed to get tipset by cid: cannot find tipset with cid {cid}: ipld: could not find {cid}"
        raise NotFound(text) from None
    if tipset.height >= (await ctx.head()).tipset.height:
        raise BadRequest(_NOT_YET)
    post = await post_of(ctx, tipset)
    if post is None:
        raise NotHeld(f"what the reverted tipset at epoch {tipset.height} did")
    return [(tipset, post)]


async def _log_tipsets(ctx: Context, wanted: LogFilter) -> tuple[Wanted, list[tuple[Tipset, Post]]]:
    head = (await ctx.head()).tipset
    low = high = 0
    try:
        if wanted.block_hash is not None:
            if wanted.low is not None or wanted.high is not None:
                raise BadRequest("must not specify block hash and from/to block")
        else:
            low, high = block_range(head.height - 1, wanted.low, wanted.high)
        conditions = _wanted(wanted)
    except BadRequest as error:
        raise BadRequest(f"failed to parse eth filter spec: {error}") from None
    if wanted.block_hash is not None:
        return conditions, await _one_tipset(ctx, wanted.block_hash)
    if low >= head.height or high >= head.height:
        raise BadRequest(_NOT_YET)
    return conditions, await tipsets_between(ctx, low, head.height - 1 if high == -1 else high)


async def logs_json(ctx: Context, found: Sequence[Matched]) -> list[dict[str, Any]]:
    """Events as logs; those that no contract emits in this form are left out. Errors: NotHeld, ChainError."""
    shown: list[dict[str, Any]] = []
    chain_id = ctx.network.eth_chain_id
    for one in found:
        done: Executed = await executed(ctx, one.tipset, one.post)
        removed = not await canonical(ctx, one.tipset)
        hashes: dict[int, bytes] = {}
        for event, entries in one.events:
            at = event.message
            if at not in hashes:
                hashes[at] = message_hash(done.messages[at], chain_id)
            log = log_from(event, entries, done.place(at), hashes[at], removed)
            if log is not None:
                shown.append(eth_json.log(log))
        await yield_now()
    return shown


@method("Filecoin.EthGetLogs", aliases=("eth_getLogs",), versions=EVERY, cost=Cost.SCAN)
async def eth_get_logs(ctx: Context, wanted: FilterParam) -> list[dict[str, Any]]:
    """The logs of a block or a range of up to 2,880 epochs that match addresses and topics; at most 10,000.

    Errors: LimitExceeded (the range), too many results, a block that is not executed yet, NotFound, NotHeld.
    """
    if wanted is None:
        raise MethodError("failed to get events for filter: no filter is given")
    try:
        conditions, tipsets = await _log_tipsets(ctx, wanted)
        found = await collect(ctx, tipsets, conditions)
    except MethodError as error:
        said = "failed to get events for filter: failed to get events for filter from chain indexer"
        raise MethodError(f"{said}: {error.message}") from error
    except (BadRequest, NotFound) as error:
        raise MethodError(f"failed to get events for filter: {error}") from error
    return await logs_json(ctx, found)


# --- GetActorEventsRaw ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter as clients write it; `low` and `high` are None where they are left out, `key` empty."""

    addresses: tuple[Address, ...] = ()
    keys: Mapping[str, frozenset[tuple[int, bytes]]] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None
    key: TipsetKey = EMPTY_KEY


_ADDRESSES: Final = param_of("addresses", list[Address])
_KEY: Final = param_of("tipsetKey", TipsetKey)
_EPOCH: Final = param_of("fromHeight", int)
_VALUE: Final = param_of("value", bytes)


class _EventFilterDecoder:
    go = "*types.ActorEventFilter"

    def decode(self, value: Any) -> EventFilter:
        """Errors: ValueError."""
        if value is None:
            return EventFilter()
        if not isinstance(value, dict):
            raise mismatch(value, "types.ActorEventFilter")
        given = {name.lower(): item for name, item in value.items()}
        fields = given.get("fields") or {}
        if not isinstance(fields, dict):
            raise mismatch(fields, "map[string][]types.ActorEventBlock")
        low, high = given.get("fromheight"), given.get("toheight")
        return EventFilter(
            tuple(_ADDRESSES.decode(given.get("addresses"))),
            {key: frozenset(self._block(one) for one in blocks or ()) for key, blocks in fields.items()},
            None if low is None else _EPOCH.decode(low),
            None if high is None else _EPOCH.decode(high),
            _KEY.decode(given.get("tipsetkey")),
        )

    def _block(self, value: Any) -> tuple[int, bytes]:
        if not isinstance(value, dict):
            raise mismatch(value, "types.ActorEventBlock")
        fields = {name.lower(): item for name, item in value.items()}
        codec = fields.get("codec")
        if codec is not None and type(codec) is not int:
            raise mismatch(codec, "uint64")
        return codec or 0, _VALUE.decode(fields.get("value"))


EventFilterParam = Annotated[EventFilter, _EventFilterDecoder()]


def height_range(newest: int, low: int | None, high: int | None) -> tuple[int, int]:
    """(first epoch, last epoch), -1 for one that is left out. Errors: BadRequest."""
    if low is not None and low < 0:
        raise BadRequest("range 'from' must be greater than or equal to 0")
    first, last = -1 if low is None else low, -1 if high is None else high
    if first == -1 and last > 0 and last - newest > MAX_RANGE:
        raise BadRequest(f"invalid epoch range: 'to' height is too far in the future (maximum: {MAX_RANGE})")
    if first >= 0 and last == -1 and newest - first > MAX_RANGE:
        raise BadRequest(f"invalid epoch range: 'from' height is too far in the past (maximum: {MAX_RANGE})")
    if first >= 0 and last >= 0:
        if first > last:
            raise BadRequest(f"invalid epoch range: 'to' height ({first}) must be after 'from' height ({last})")
        if last - first > MAX_RANGE:
            raise BadRequest(
                f"invalid epoch range: range between to and 'from' heights is too large (maximum: {MAX_RANGE})"
            )
    return first, last


@method("Filecoin.GetActorEventsRaw", versions=V0 | V1, cost=Cost.SCAN)
async def get_actor_events_raw(ctx: Context, wanted: EventFilterParam) -> list[dict[str, Any]] | None:
    """The events of a tipset or a range of up to 2,880 epochs, of actors of every kind; null for none.

    Errors: BadRequest (the range), too many results, NotFound, NotHeld.
    """
    head = (await ctx.head()).tipset
    if wanted.key:
        if wanted.low is not None or wanted.high is not None:
            raise BadRequest("cannot specify both TipSetKey and FromHeight/ToHeight")
        tipset = await ctx.tipset(wanted.key)
        post = None if tipset.height >= head.height else await post_of(ctx, tipset)
        if post is None:
            raise NotHeld(f"what the tipset at epoch {tipset.height} did")
        tipsets = [(tipset, post)]
    else:
        first, last = height_range(head.height, wanted.low, wanted.high)
        if first == -1 or first >= head.height:
            return None
        tipsets = await tipsets_between(ctx, first, head.height - 1 if last == -1 else last)
        if last > head.height and not tipsets:
            raise BadRequest(f"get events for filter: range end is in the future, highest epoch: {head.height}")
    try:
        found = await collect(ctx, tipsets, wanted_of(wanted.addresses, wanted.keys))
    except (MethodError, ChainError) as error:
        raise MethodError(f"get events for filter: {error}") from error
    shown: list[dict[str, Any]] = []
    for one in found:
        done = await executed(ctx, one.tipset, one.post)
        removed = not await canonical(ctx, one.tipset)
        for event, entries in one.events:
            shown.append(
                {
                    "entries": event_json_entries(entries),
                    "emitter": event.address,
                    "reverted": removed,
                    "height": one.tipset.height,
                    "tipsetKey": one.tipset.key,
                    "msgCid": done.messages[event.message].cid,
                }
            )
    return shown or None


def event_json_entries(entries: Sequence[EventEntry]) -> list[dict[str, Any]]:
    """Event entries as Lotus writes them."""
    return [
        {"Flags": entry.flags, "Key": entry.key, "Codec": entry.codec, "Value": entry.value or None}
        for entry in entries
    ]
