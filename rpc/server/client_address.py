"""Which client a request comes from: the address of its peer, or what a trusted balancer says of it (by
`X-Forwarded-For`, or for a whole connection by the PROXY protocol)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from weakref import WeakKeyDictionary

#: networks whose addresses no stranger on the Internet can have
PRIVATE: Final = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

#: accounts that are remembered
_REMEMBERED: Final = 4096

_Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address


def networks(text: str) -> tuple[_Network, ...]:
    """Networks and addresses, separated by commas. Errors: ValueError, naming the one that is none."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _address(text: str) -> _Address | None:
    try:
        found = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


class Clients:
    """Tells clients apart. `trusted`: networks of balancers whose `X-Forwarded-For` is believed."""

    def __init__(self, trusted: Iterable[str] = PRIVATE) -> None:
        self._trusted = networks(",".join(trusted))
        self._accounts: dict[tuple[str, str], str] = {}
        #: addresses that a balancer has named for a whole connection, by the PROXY protocol
        self._peers: WeakKeyDictionary[asyncio.BaseTransport, str] = WeakKeyDictionary()

    def of(self, peer: str, forwarded: str = "") -> str:
        """The client's IPv4 address, or the /64 of an IPv6 one (a client has all of it); "" where there is none.

        `forwarded` is read from its end, as each balancer adds the peer that it has seen: the first that is no
        trusted balancer is the client, whatever it has written before that itself.
        """
        found = _address(peer)
        if found is None:
            return ""
        for text in reversed(forwarded.split(",") if forwarded else ()):
            if not any(found in network for network in self._trusted):
                break
            named = _address(text)
            if named is None:
                break
            found = named
        return str(ip_network((found, 64), strict=False) if isinstance(found, IPv6Address) else found)

    def account(self, peer: str, forwarded: str = "") -> str:
        """Whose shares a request uses: as `of`, but "" for a balancer that names no client. Remembered."""
        found = self._accounts.get((peer, forwarded))
        if found is None:
            found = self.of(peer, forwarded)
            if found and found == self.of(peer):
                address = _address(peer)
                if any(address in network for network in self._trusted):
                    found = ""
            if len(self._accounts) >= _REMEMBERED:
                self._accounts.clear()
            self._accounts[peer, forwarded] = found
        return found

    def account_of_transport(self, transport: asyncio.BaseTransport | None, forwarded: str = "") -> str:
        """As `account`, of a connection."""
        return self.account(self._peer(transport), forwarded)

    def of_transport(self, transport: asyncio.BaseTransport | None, forwarded: str) -> str:
        """As `of`, of a connection."""
        return self.of(self._peer(transport), forwarded)

    def note_peer(self, transport: asyncio.BaseTransport, address: str) -> None:
        """A trusted balancer has said whom this connection is from: `address` counts as its peer."""
        self._peers[transport] = address

    def is_trusted_transport(self, transport: asyncio.BaseTransport) -> bool:
        """Whether the peer of a connection is a trusted balancer."""
        address = _address(self._peer(transport))
        return address is not None and any(address in network for network in self._trusted)

    def _peer(self, transport: asyncio.BaseTransport | None) -> str:
        if transport is None:
            return ""
        noted = self._peers.get(transport) if self._peers else None
        if noted is not None:
            return noted
        peer = transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""
