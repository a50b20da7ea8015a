"""What an event must be for a filter to find it, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from chain.address import Address
from chain.consensus.ancestry import Ancestor
from chain.eth.transaction import NotEthTx
from chain.index.event_rows import IndexedEvent
from chain.message import EventEntry
from chain.state.tipset_events import INDEXED, TipsetEvent
from rpc import eth_json
from rpc.lookup.eth.tipset_logs import raw_entries, to_log

#: (key, codec, value) of an indexed entry
Value = tuple[str, int, bytes]
_NOT_REMOVED: Final = b'"removed":false'
_REMOVED: Final = b'"removed":true'


@dataclass(frozen=True, slots=True)
class EventCriteria:
    """What an event must have to match. `values`: for each set, one of its (key, codec, value) as an indexed entry.

    `ids` and `delegated` are emitters, by actor ID and by delegated address; where both are given an event must match
    one of each, as in Lotus. `is_raw_only`: without `values`, only entries of the raw codec count and are shown.
    `includes_empty`: an event without entries matches too. Lotus pushes such events, but its index never finds them.
    """

    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()
    values: tuple[frozenset[Value], ...] = ()
    is_raw_only: bool = False
    includes_empty: bool = False

    def matches_emitter(self, event: TipsetEvent) -> bool:
        """Whether the event's emitter matches."""
        return (not self.ids or event.emitter in self.ids) and (not self.delegated or event.address in self.delegated)

    def matches_values(self, values: frozenset[Value]) -> bool:
        """Whether an event with these indexed entries matches."""
        return not any(map(values.isdisjoint, self.values))

    def shown_entries(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event whose emitter and values match. None: it does not match."""
        if self.values or not self.is_raw_only:
            return event.entries
        return raw_entries(event)

    def matching_entries(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event. None: it does not match."""
        if not self.matches_emitter(event) or not self.matches_values(indexed_values(event)):
            return ()
        return self.shown_entries(event)

    def count_matches(self, event: TipsetEvent) -> int:
        """How often Lotus' index returns each entry of an event: once for each combination of values."""
        found = 1
        for one in self.values:
            indexed = (entry for entry in event.entries if entry.flags & INDEXED)
            found *= sum((entry.key, entry.codec, entry.value) in one for entry in indexed)
        return found

    def matches_empty(self, event: TipsetEvent) -> bool:
        """Whether this is an event without entries that matches."""
        return self.includes_empty and not event.entries and not self.values and self.matches_emitter(event)


def indexed_values(event: TipsetEvent) -> frozenset[Value]:
    """The indexed entries of an event."""
    return frozenset((entry.key, entry.codec, entry.value) for entry in event.entries if entry.flags & INDEXED)


def make_criteria(
    addresses: Sequence[Address],
    keys: Mapping[str, frozenset[tuple[int, bytes]]],
    is_raw_only: bool = False,
) -> EventCriteria:
    """The criteria of these addresses and keys. Emitters have ID and delegated addresses, no others."""
    return EventCriteria(
        frozenset(address.id for address in addresses if address.is_id),
        frozenset(bytes(address) for address in addresses if not address.is_id),
        tuple(
            frozenset((key, codec, value) for codec, value in keys[key])
            # the last topics are the rarest: what is narrowest is looked for first
            for key in sorted(keys, reverse=True)
            if keys[key]
        ),
        is_raw_only,
    )


@dataclass(slots=True)
class Hit:
    """A matching event, its tipset, and the entries to show of it."""

    place: Ancestor
    found: IndexedEvent
    entries: Sequence[EventEntry]
    _log: bytes | None = None

    def log(self, removed: bool) -> bytes | None:
        """The event as an Ethereum log, JSON. None: the entries are no EVM log. Errors: NotEthTx, EthAddressError."""
        if self._log is None:
            event, at = self.found.event, self.place
            if self.found.tx_hash is None:
                raise NotEthTx(f"message {self.found.cid} is no Ethereum transaction")
            place = eth_json.Place(at.block_hash, at.height, event.message)
            log = to_log(event, self.entries, place, self.found.tx_hash, False)
            self._log = b"" if log is None else orjson.dumps(eth_json.log(log))
        return (self._log.replace(_NOT_REMOVED, _REMOVED, 1) if removed else self._log) or None
