"""The filter of `eth_getLogs`, `eth_newFilter` and `eth_subscribe` as clients write it, and its criteria.

Limits and texts are Lotus', `node/impl/eth/events.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from blockstore.cid import RAW
from chain.address import Address
from chain.errors import BadAddress, BadRequest
from chain.eth.types import filecoin_address
from rpc.errors import LimitExceeded, limit_data
from rpc.lookup.eth.filter_values import OPTIONAL_TEXT, check_length, decode_one_or_more
from rpc.lookup.events.criteria import EventCriteria, make_criteria
from rpc.params import EthAddress, EthHash, EthUint64, field_of, mismatch, param_of

#: the most epochs of a range, Lotus' default
MAX_RANGE: Final = 2880
MAX_TOPICS: Final = 4
#: topics beyond which a filter is not even decoded
MAX_TOPICS_READ: Final = 64
#: how a range's end names the newest executed tipset
NEWEST: Final = (None, "", "latest")
_OPTIONAL_HASH: Final = param_of("blockHash", EthHash | None)
_HASH: Final = param_of("hash", EthHash)
_ADDRESS: Final = param_of("address", EthAddress)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter as clients write it. `topics`: for each place the values one of which is wanted, empty for any."""

    low: str | None = None
    high: str | None = None
    block_hash: bytes | None = None
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()


class _FilterDecoder:
    """`struct`: the Go type that error texts name."""

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
            addresses = decode_one_or_more(fields.get("address"), _ADDRESS.decode, "ethtypes.EthAddressList")
        with field_of(self._struct, "topics"):
            topics = fields.get("topics")
            if topics is not None and not isinstance(topics, list):
                raise mismatch(topics, "ethtypes.EthTopicSpec")
            check_length(topics or (), "ethtypes.EthTopicSpec", MAX_TOPICS_READ)
            hashes = tuple(decode_one_or_more(item, _HASH.decode, "ethtypes.EthHashList") for item in topics or ())
        return LogFilter(first, last, block_hash, addresses, hashes)


LogFilterParam = Annotated[LogFilter | None, _FilterDecoder()]
#: as `eth_subscribe` takes it
PushedFilterParam = Annotated[LogFilter | None, _FilterDecoder("EthSubscriptionParams")]


def _parse_epoch(text: str, name: str) -> int:
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


def parse_block_range(newest: int, low: str | None, high: str | None) -> tuple[int, int]:
    """(first epoch, last epoch or -1 for the newest) of a range. Errors: BadRequest, LimitExceeded."""
    first = newest if low in NEWEST else 0 if low == "earliest" else _parse_epoch(low or "", "FromBlock")
    last = -1 if high in NEWEST else 0 if high == "earliest" else _parse_epoch(high or "", "ToBlock")
    if 0 <= last < first:
        raise BadRequest(f"invalid epoch range: to block ({last}) must be after from block ({first})")
    span = (newest if last == -1 else last) - first
    if span > MAX_RANGE:
        text = f"block range exceeds maximum of {MAX_RANGE} (got {span})"
        raise LimitExceeded(text, limit_data("block_range", MAX_RANGE, span))
    return first, last


def log_criteria(wanted: LogFilter) -> EventCriteria:
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
    return make_criteria(addresses, keys, is_raw_only=True)
