"""Events by filter: `eth_getLogs`, and `GetActorEventsRaw` for actors of every kind.

Limits, order and texts are Lotus', `node/impl/eth/events.go`, `node/impl/full/actor_events.go`,
`chain/index/events.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import orjson

from blockstore.cid import RAW, Cid
from blockstore.errors import Missing
from chain.address import Address
from chain.consensus.ancestry import place_of
from chain.errors import BadAddress, BadRequest, ChainError, NotFound, NotHeld
from chain.eth.types import cid_of_hash, filecoin_address
from chain.message import EventEntry
from chain.tipset import EMPTY_KEY, Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import LimitExceeded, MethodError
from rpc.lookup.eth.block_parameter import by_hash, canonical
from rpc.lookup.events.event_search import Hit, Wanted, event_search, joined, wanted_of
from rpc.methods.eth.block import EVERY
from rpc.params import EthAddress, EthHash, EthUint64, Integer, field_of, mismatch, param_of
from rpc.registry import V0, V1, Cost, method

#: epochs of a range, and results from more than one tipset, as a node has them by default
MAX_RANGE: Final = 2880
MAX_RESULTS: Final = 10_000
MAX_TOPICS: Final = 4
#: addresses, and values of one topic, that a filter may name
MAX_NAMED: Final = 10_000

_TOO_MANY: Final = "filter matches too many events, try a more restricted filter"
_NOT_YET: Final = "events for the requested block are not yet available"

OPTIONAL_TEXT: Final = param_of("text", str | None)
_OPTIONAL_HASH: Final = param_of("blockHash", EthHash | None)
_HASH: Final = param_of("hash", EthHash)
_ADDRESS: Final = param_of("address", EthAddress)


# --- what is found -------------------------------------------------------------------------------------


async def collect(hits: AsyncIterator[list[Hit]]) -> list[Hit]:
    """All that a search finds. Errors: MethodError (over 10,000 from more than one tipset), NotHeld."""
    found: list[Hit] = []
    tipsets = 0
    async for some in hits:
        found += some
        tipsets += 1
        if tipsets > 1 and len(found) > MAX_RESULTS:
            raise MethodError(f"failed to get events: {_TOO_MANY}")
    return found


async def find_range(ctx: Context, low: int, high: int, wanted: Wanted) -> list[Hit]:
    """What a filter finds from epoch `low` to `high` of the head's chain, below the head. Errors: as `collect`."""
    head = (await ctx.head()).tipset
    return await collect(event_search(ctx).range(ctx, low, min(high, head.height - 1), wanted))


async def find_in(ctx: Context, tipsets: Sequence[Tipset], wanted: Wanted) -> list[Hit]:
    """What a filter finds in these tipsets (rising), on whatever fork. Errors: as `collect`."""
    return await collect(event_search(ctx).places(ctx, [place_of(tipset) for tipset in tipsets], wanted))


def logs_json(hits: Iterable[Hit], removed: bool = False) -> orjson.Fragment:
    """Events as logs; those that no contract emits in this form are left out. Errors: ChainError."""
    return joined(log for hit in hits if (log := hit.log(removed)) is not None)


# --- eth_getLogs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter as clients write it. `topics`: for each place the values one of which is wanted, empty for any."""

    low: str | None = None
    high: str | None = None
    block_hash: bytes | None = None
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()


def several(value: Any, decode: Any, go: str) -> tuple[bytes, ...]:
    """One value, or an array of them; null for none. Errors: ValueError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return (decode(value),)
    if len(value) > MAX_NAMED:
        raise ValueError(f"more than {MAX_NAMED} items in a {go}")
    return tuple(decode(item) for item in value)


class _FilterDecoder:
    """`struct`: as the texts of errors name what the filter stands in."""

    go = "*ethtypes.EthFilterSpec"

    def __init__(self, struct: str = "EthFilterSpec") -> None:
        self._struct = struct

    def decode(self, value: Any) -> LogFilter | None:
        """Errors: ValueError."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise mismatch(value, "ethtypes.EthFilterSpec")
        fields = {name.lower(): item for name, item in value.items()}
        with field_of(self._struct, "fromBlock"):
            first = OPTIONAL_TEXT.decode(fields.get("fromblock"))
        with field_of(self._struct, "toBlock"):
            last = OPTIONAL_TEXT.decode(fields.get("toblock"))
        with field_of(self._struct, "blockHash"):
            block_hash = _OPTIONAL_HASH.decode(fields.get("blockhash"))
        with field_of(self._struct, "address"):
            addresses = several(fields.get("address"), _ADDRESS.decode, "ethtypes.EthAddressList")
        with field_of(self._struct, "topics"):
            topics = fields.get("topics")
            if topics is not None and not isinstance(topics, list):
                raise mismatch(topics, "ethtypes.EthTopicSpec")
            hashes = tuple(several(item, _HASH.decode, "ethtypes.EthHashList") for item in topics or ())
        return LogFilter(first, last, block_hash, addresses, hashes)


FilterParam = Annotated[LogFilter | None, _FilterDecoder()]
#: as `eth_subscribe` takes it
PushedFilterParam = Annotated[LogFilter | None, _FilterDecoder("EthSubscriptionParams")]


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


def log_conditions(wanted: LogFilter) -> Wanted:
    """What a filter's addresses and topics ask for. Errors: BadRequest."""
    addresses: list[Address] = []
    for address in wanted.addresses:
        try:
            addresses.append(filecoin_address(address))
        except BadAddress:
            # as Go's %x shows what has a text: the bytes of that text
            raise BadRequest(f"invalid address {('0x' + address.hex()).encode().hex()}") from None
    if len(wanted.topics) > MAX_TOPICS:
        raise BadRequest(f"too many topics in filter: {len(wanted.topics)}, max: {MAX_TOPICS}")
    keys = {
        f"t{at}": frozenset((RAW, value) for value in values) for at, values in enumerate(wanted.topics, 1) if values
    }
    return wanted_of(addresses, keys, raw=True)


def no_tipset(cid: Cid) -> NotFound:
    """What an index says of a tipset key that it does not know."""
    return NotFound(f"failed to get tipset by cid: cannot find tipset with cid {cid}: ipld: could not find {cid}")


async def tipset_by_hash(ctx: Context, digest: bytes) -> Tipset:
    """The tipset whose events are asked for. Errors: NotFound, NotHeld."""
    try:
        return await by_hash(ctx, digest)
    except NotFound:
        raise no_tipset(cid_of_hash(digest)) from None


async def _one_tipset(ctx: Context, digest: bytes) -> Tipset:
    """Errors: BadRequest (its events are not there yet), NotFound, NotHeld."""
    tipset = await tipset_by_hash(ctx, digest)
    if tipset.height >= (await ctx.head()).tipset.height:
        raise BadRequest(_NOT_YET)
    return tipset


async def _find(ctx: Context, wanted: LogFilter) -> orjson.Fragment:
    head = (await ctx.head()).tipset
    low = high = 0
    try:
        if wanted.block_hash is not None:
            if wanted.low is not None or wanted.high is not None:
                raise BadRequest("must not specify block hash and from/to block")
        else:
            low, high = block_range(head.height - 1, wanted.low, wanted.high)
        conditions = log_conditions(wanted)
    except BadRequest as error:
        raise BadRequest(f"failed to parse eth filter spec: {error}") from None
    if wanted.block_hash is not None:
        tipset = await _one_tipset(ctx, wanted.block_hash)
        return logs_json(await find_in(ctx, [tipset], conditions), not await canonical(ctx, tipset))
    if low >= head.height or high >= head.height:
        raise BadRequest(_NOT_YET)
    return logs_json(await find_range(ctx, low, head.height - 1 if high == -1 else high, conditions))


@method("Filecoin.EthGetLogs", aliases=("eth_getLogs",), versions=EVERY, cost=Cost.SCAN, answered="indexed")
async def eth_get_logs(ctx: Context, wanted: FilterParam) -> orjson.Fragment:
    """The logs of a block or a range of up to 2,880 epochs that match addresses and topics; at most 10,000.

    Errors: LimitExceeded (the range), too many results, a block that is not executed yet, NotFound, NotHeld (names
    what is covered).
    """
    if wanted is None:
        raise MethodError("failed to get events for filter: no filter is given")
    try:
        return await _find(ctx, wanted)
    except MethodError as error:
        said = "failed to get events for filter: failed to get events for filter from chain indexer"
        raise MethodError(f"{said}: {error.message}") from error
    except (BadRequest, NotFound) as error:
        raise MethodError(f"failed to get events for filter: {error}") from error


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
_OPTIONAL_EPOCH: Final = param_of("fromHeight", int | None)
_VALUE: Final = param_of("value", bytes)
_CODEC: Final = Integer("uint64", 0, (1 << 64) - 1)
_OCTET: Final = Integer("uint8", 0, 255)


class _EventFilterDecoder:
    go = "*types.ActorEventFilter"

    def decode(self, value: Any) -> EventFilter:
        """Errors: ValueError."""
        if value is None:
            return EventFilter()
        if not isinstance(value, dict):
            raise mismatch(value, "types.ActorEventFilter")
        given = {name.lower(): item for name, item in value.items()}
        with field_of("ActorEventFilter", "addresses"):
            addresses = tuple(_ADDRESSES.decode(given.get("addresses")))
        fields = self._fields(given.get("fields"))
        with field_of("ActorEventFilter", "fromHeight"):
            first = _OPTIONAL_EPOCH.decode(given.get("fromheight"))
        with field_of("ActorEventFilter", "toHeight"):
            last = _OPTIONAL_EPOCH.decode(given.get("toheight"))
        with field_of("ActorEventFilter", "tipsetKey"):
            return EventFilter(addresses, fields, first, last, _KEY.decode(given.get("tipsetkey")))

    def _fields(self, value: Any) -> dict[str, frozenset[tuple[int, bytes]]]:
        if value is None:
            return {}
        with field_of("ActorEventFilter", "fields"):
            if not isinstance(value, dict):
                raise mismatch(value, "map[string][]types.ActorEventBlock")
            found = {}
            for key, blocks in value.items():
                if blocks is not None and not isinstance(blocks, list):
                    raise mismatch(blocks, "[]types.ActorEventBlock")
                found[key] = frozenset(self._block(one) for one in blocks or ())
        return found

    def _block(self, value: Any) -> tuple[int, bytes]:
        if value is None:
            return 0, b""
        if not isinstance(value, dict):
            raise mismatch(value, "types.ActorEventBlock")
        fields = {name.lower(): item for name, item in value.items()}
        with field_of("ActorEventBlock", "fields.codec"):
            codec: int = _CODEC.decode(fields.get("codec"))
        data = fields.get("value")
        with field_of("ActorEventBlock", "fields.value"):
            # Go takes an array of numbers for bytes, too
            octets = bytes(_OCTET.decode(one) for one in data) if isinstance(data, list) else _VALUE.decode(data)
        return codec, octets


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


async def held_actor_events(ctx: Context, wanted: EventFilter, low: int, high: int) -> list[dict[str, Any]]:
    """What a filter of actors' events finds of what is there already: of its tipset, or from `low` to `high`.

    Errors: MethodError, NotHeld.
    """
    try:
        return await _held_actor_events(ctx, wanted, low, high)
    except NotHeld:
        raise  # no error of a node's, and it has a code of its own
    except (MethodError, ChainError) as error:
        raise MethodError(f"get events for filter: {error}") from error


async def _held_actor_events(ctx: Context, wanted: EventFilter, low: int, high: int) -> list[dict[str, Any]]:
    head = (await ctx.head()).tipset
    for address in wanted.addresses:
        if address.protocol not in (0, 4):
            shown = address.text(ctx.network.address_prefix)
            raise BadRequest(
                "failed to make prefill filter query: can only query events by ID or Delegated addresses; "
                f"but request has address: {shown}"
            )
    conditions = wanted_of(wanted.addresses, wanted.keys)
    removed = False
    if wanted.key:
        try:
            tipset = await ctx.tipset(wanted.key)
        except Missing:
            raise no_tipset(wanted.key.cid) from None
        if tipset.key == head.key:
            return []  # nobody has executed it yet
        if tipset.height >= head.height:
            raise NotHeld(f"what the tipset at epoch {tipset.height} did")
        found = await find_in(ctx, [tipset], conditions)
        removed = not await canonical(ctx, tipset)
    else:
        found = await find_range(ctx, low, head.height - 1 if high < 0 else high, conditions)
        if not found and high > head.height:
            raise BadRequest(f"range end is in the future, highest epoch: {head.height}")
    return [actor_event_json(hit, removed, conditions.times(hit.found.event)) for hit in found]


def actor_event_range(head: Tipset, wanted: EventFilter) -> tuple[int, int]:
    """(first epoch, last epoch) of a filter, -1 for one left out; (0, 0) of a tipset's. Errors: BadRequest."""
    if not wanted.key:
        return height_range(head.height, wanted.low, wanted.high)
    if wanted.low is not None or wanted.high is not None:
        raise BadRequest("cannot specify both TipSetKey and FromHeight/ToHeight")
    return 0, 0


@method("Filecoin.GetActorEventsRaw", versions=V0 | V1, cost=Cost.SCAN)
async def get_actor_events_raw(ctx: Context, wanted: EventFilterParam) -> list[dict[str, Any]] | None:
    """The events of a tipset or a range of up to 2,880 epochs, of actors of every kind; null for none.

    Errors: BadRequest (the range), too many results, NotFound, NotHeld.
    """
    head = (await ctx.head()).tipset
    low, high = actor_event_range(head, wanted)
    if low == -1 or low >= head.height:
        return None
    return await held_actor_events(ctx, wanted, low, high) or None


def actor_event_json(hit: Hit, reverted: bool, times: int = 1) -> dict[str, Any]:
    """An event as Lotus' ActorEvent. Each entry stands there so many `times`: see `Wanted.times`."""
    return {
        "entries": event_json_entries([entry for entry in hit.entries for _ in range(times)]),
        "emitter": hit.found.event.address,
        "reverted": reverted,
        "height": hit.place.height,
        "tipsetKey": hit.place.key,
        "msgCid": hit.found.cid,
    }


def event_json_entries(entries: Sequence[EventEntry]) -> list[dict[str, Any]]:
    """Event entries as Lotus writes them."""
    return [
        {"Flags": entry.flags, "Key": entry.key, "Codec": entry.codec, "Value": entry.value or None}
        for entry in entries
    ]
