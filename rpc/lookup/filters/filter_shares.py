"""Shares of the store's filters: of a client, of its network, and who gives way when no place is left.

A client is told by its address, a network by the /24 of an IPv4 address and the /48 of an IPv6 one: addresses of one
network are cheap to have many of.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NamedTuple

from rpc.errors import LimitExceeded, MethodError, limit_data

_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 48
#: a filter is idle when it has not been polled for this part of its life
_IDLE_PART: Final = 4


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """How many filters there may be, and how long one lives.

    `total`: filters in the store; `ttl_seconds`: how long one lives after its last poll; `per_client` and
    `per_network`: filters of one client, and of one network, in the store; `per_connection`: filters and subscriptions
    of one WebSocket session; `results`: the most values of one poll, but that those of a single tipset come together.
    """

    total: int = 4096
    ttl_seconds: float = 3600.0
    per_client: int = 100
    per_connection: int = 16
    per_network: int = 256
    results: int = 10_000

    @property
    def idle_ms(self) -> float:
        """Milliseconds without a poll after which a filter is idle."""
        return self.ttl_seconds * 1000 / _IDLE_PART


class Owner(NamedTuple):
    """Digests of a client's address and of its network; both empty where the address is not known."""

    client: bytes
    network: bytes


NOBODY: Final = Owner(b"", b"")


def owner_of(client: str) -> Owner:
    """The owner that a client's address stands for; an address is an IPv4 one or the /64 of an IPv6 one."""
    if not client:
        return NOBODY
    try:
        found: IPv4Network | IPv6Network = ip_network(client, strict=False)
    except ValueError:
        return Owner(_digest(client), _digest(client))
    prefix = _IPV4_PREFIX if isinstance(found, IPv4Network) else _IPV6_PREFIX
    network = found.supernet(new_prefix=prefix) if found.prefixlen > prefix else found
    return Owner(_digest(client), _digest(str(network)))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


class HeldFilter(NamedTuple):
    """A filter that stands in the store: its partition and id, its row, whose it is, and when it was last polled."""

    partition: bytes
    filter_id: bytes
    raw: bytes
    owner: Owner
    polled_ms: int


def make_room(
    held: Sequence[HeldFilter], owner: Owner, limits: FilterLimits, now_ms: int, is_full: bool
) -> HeldFilter | None:
    """The filter that is removed for a new one of `owner`; None where none needs to be.

    `held` are the filters of the partitions that a new one may stand in, `is_full` says that they have no place left.
    A client, and a network, that has its share gives up its own oldest idle filter. Where no place is left the network
    with the most filters gives up its oldest one, if it has more than the new filter's network will have; else the
    oldest idle filter goes.

    Errors: LimitExceeded (the client, or its network, has its share and none is idle), MethodError (no place is left).
    """
    if owner != NOBODY:
        own = [one for one in held if one.owner.client == owner.client]
        if len(own) >= limits.per_client:
            idle = _oldest_idle(own, limits, now_ms)
            if idle is None:
                text = f"too many filters of one client: at most {limits.per_client}; uninstall some"
                raise LimitExceeded(text, limit_data("filters_per_client", limits.per_client))
            return idle
        own = [one for one in held if one.owner.network == owner.network]
        if len(own) >= limits.per_network:
            idle = _oldest_idle(own, limits, now_ms)
            if idle is None:
                text = f"too many filters of one network of clients: at most {limits.per_network}"
                raise LimitExceeded(text, limit_data("filters_per_network", limits.per_network))
            return idle
    if not is_full:
        return None
    counts = Counter(one.owner.network for one in held)
    if counts:
        largest, count = max(counts.items(), key=lambda item: item[1])
        if count > counts[owner.network] + 1:
            return _oldest([one for one in held if one.owner.network == largest])
    found = _oldest_idle(held, limits, now_ms)
    if found is None:
        raise MethodError("maximum number of filters registered")
    return found


def _oldest(held: Sequence[HeldFilter]) -> HeldFilter:
    return min(held, key=lambda one: one.polled_ms)


def _oldest_idle(held: Sequence[HeldFilter], limits: FilterLimits, now_ms: int) -> HeldFilter | None:
    found = _oldest(held) if held else None
    return found if found is not None and found.polled_ms + limits.idle_ms < now_ms else None
