"""What an event must be for a filter to find it, and what is found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from chain.address import Address
from chain.consensus.ancestry import Ancestor
from chain.errors import ChainError
from chain.index.event_rows import (
    IndexedEvent,
)
from chain.message import EventEntry
from chain.state.tipset_events import INDEXED, TipsetEvent
from rpc import eth_json
from rpc.lookup.eth.tipset_logs import raw_entries, to_log

#: an indexed entry as it is looked for
Value = tuple[str, int, bytes]
_NOT_REMOVED: Final = b'"removed":false'
_REMOVED: Final = b'"removed":true'


@dataclass(frozen=True, slots=True)
class EventCriteria:
    """What an event must be. `values`: of each of these sets of (key, codec, value) one indexed entry.

    An address is an actor's ID, or its delegated address; where both kinds are named an event must match one of
    each, as in Lotus. `raw`: without `values`, entries of plain bytes alone are looked at and shown. `bare`: an event
    without entries may be wanted too; the node tells those as they come, and never afterwards.
    """

    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()
    values: tuple[frozenset[Value], ...] = ()
    raw: bool = False
    bare: bool = False

    def emitter(self, event: TipsetEvent) -> bool:
        """Whether events of this one's emitter may be wanted."""
        if self.ids and event.emitter not in self.ids:
            return False
        return not self.delegated or event.address in self.delegated

    def matches(self, values: frozenset[Value]) -> bool:
        """Whether an event with these indexed entries may be wanted."""
        return not any(one.isdisjoint(values) for one in self.values)

    def shown(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event whose emitter and values match; none, where it is not wanted."""
        if self.values or not self.raw:
            return event.entries
        return raw_entries(event)

    def entries(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event; none, where it is not wanted."""
        return self.shown(event) if self.emitter(event) and self.matches(indexed_values(event)) else ()

    def times(self, event: TipsetEvent) -> int:
        """How often an index tells each entry of an event that is wanted: once for each way to find what is wanted."""
        found = 1
        for one in self.values:
            indexed = (entry for entry in event.entries if entry.flags & INDEXED)
            found *= sum((entry.key, entry.codec, entry.value) in one for entry in indexed)
        return found

    def bare_event(self, event: TipsetEvent) -> bool:
        """Whether this is an event without entries that is wanted."""
        return self.bare and not event.entries and not self.values and self.emitter(event)


def indexed_values(event: TipsetEvent) -> frozenset[Value]:
    """The indexed entries of an event."""
    return frozenset((entry.key, entry.codec, entry.value) for entry in event.entries if entry.flags & INDEXED)


def make_criteria(
    addresses: Sequence[Address],
    keys: Mapping[str, frozenset[tuple[int, bytes]]],
    raw: bool = False,
) -> EventCriteria:
    """What these addresses and keys ask for. No event has an address of another kind than ID or delegated."""
    return EventCriteria(
        frozenset(address.id for address in addresses if address.is_id),
        frozenset(bytes(address) for address in addresses if not address.is_id),
        tuple(
            frozenset((key, codec, value) for codec, value in keys[key])
            # the last topics are the rarest: what is narrowest is looked for first
            for key in sorted(keys, reverse=True)
            if keys[key]
        ),
        raw,
    )


@dataclass(slots=True)
class Hit:
    """An event that is wanted, where it stands, and the entries to show of it."""

    place: Ancestor
    found: IndexedEvent
    entries: Sequence[EventEntry]
    _log: bytes | None = None

    def log(self, removed: bool) -> bytes | None:
        """It as an Ethereum log, JSON; None where no contract emits such events. Errors: ChainError."""
        if self._log is None:
            event, at = self.found.event, self.place
            if self.found.tx_hash is None:
                raise ChainError(f"message {self.found.cid} is no Ethereum transaction")
            place = eth_json.Place(at.block_hash, at.height, event.message)
            log = to_log(event, self.entries, place, self.found.tx_hash, False)
            self._log = b"" if log is None else orjson.dumps(eth_json.log(log))
        return (self._log.replace(_NOT_REMOVED, _REMOVED, 1) if removed else self._log) or None


def join_json(logs: Iterable[bytes]) -> orjson.Fragment:
    """JSON values as one array."""
    return orjson.Fragment(b"[" + b",".join(logs) + b"]")
