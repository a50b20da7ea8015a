"""The filter of `GetActorEventsRaw` and `SubscribeActorEventsRaw` as clients write it, and its epochs.

Limits and texts are Lotus', `node/impl/full/actor_events.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from chain.address import Address
from chain.errors import BadRequest
from chain.tipset import EMPTY_KEY, Tipset, TipsetKey
from rpc.lookup.eth.filter_values import check_length
from rpc.lookup.events.log_filter import MAX_RANGE
from rpc.params import Integer, field_of, mismatch, param_of

#: the most keys that a filter may name
MAX_KEYS: Final = 32

_ADDRESSES: Final = param_of("addresses", list[Address])
_KEY: Final = param_of("tipsetKey", TipsetKey)
_OPTIONAL_EPOCH: Final = param_of("fromHeight", int | None)
_VALUE: Final = param_of("value", bytes)
_CODEC: Final = Integer("uint64", 0, (1 << 64) - 1)
_OCTET: Final = Integer("uint8", 0, 255)


@dataclass(frozen=True, slots=True)
class ActorEventFilter:
    """A filter as clients write it; `low` and `high` are None where they are left out, `key` empty."""

    addresses: tuple[Address, ...] = ()
    keys: Mapping[str, frozenset[tuple[int, bytes]]] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None
    key: TipsetKey = EMPTY_KEY


class _ActorEventFilterDecoder:
    go = "*types.ActorEventFilter"

    def decode(self, value: Any) -> ActorEventFilter:
        """Errors: ValueError."""
        if value is None:
            return ActorEventFilter()
        if not isinstance(value, dict):
            raise mismatch(value, "types.ActorEventFilter")
        given = {name.lower(): item for name, item in value.items()}
        with field_of("ActorEventFilter", "addresses"):
            if isinstance(listed := given.get("addresses"), list):
                check_length(listed, "[]address.Address")
            addresses = tuple(_ADDRESSES.decode(listed))
        fields = self._fields(given.get("fields"))
        with field_of("ActorEventFilter", "fromHeight"):
            first = _OPTIONAL_EPOCH.decode(given.get("fromheight"))
        with field_of("ActorEventFilter", "toHeight"):
            last = _OPTIONAL_EPOCH.decode(given.get("toheight"))
        with field_of("ActorEventFilter", "tipsetKey"):
            return ActorEventFilter(addresses, fields, first, last, _KEY.decode(given.get("tipsetkey")))

    def _fields(self, value: Any) -> dict[str, frozenset[tuple[int, bytes]]]:
        if value is None:
            return {}
        with field_of("ActorEventFilter", "fields"):
            if not isinstance(value, dict):
                raise mismatch(value, "map[string][]types.ActorEventBlock")
            check_length(value, "map[string][]types.ActorEventBlock", MAX_KEYS)
            found = {}
            for key, blocks in value.items():
                if blocks is not None and not isinstance(blocks, list):
                    raise mismatch(blocks, "[]types.ActorEventBlock")
                check_length(blocks or (), "[]types.ActorEventBlock")
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


ActorEventFilterParam = Annotated[ActorEventFilter, _ActorEventFilterDecoder()]


def check_height_range(newest: int, low: int | None, high: int | None) -> tuple[int, int]:
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


def actor_event_range(head: Tipset, wanted: ActorEventFilter) -> tuple[int, int]:
    """(first epoch, last epoch) of a filter, -1 for one left out; (0, 0) of a tipset's. Errors: BadRequest."""
    if not wanted.key:
        return check_height_range(head.height, wanted.low, wanted.high)
    if wanted.low is not None or wanted.high is not None:
        raise BadRequest("cannot specify both TipSetKey and FromHeight/ToHeight")
    return 0, 0
