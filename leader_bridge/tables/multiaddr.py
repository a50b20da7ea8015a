"""Multiaddresses as text. Source: multiformats `multiaddr/protocols.csv`."""

from __future__ import annotations

import ipaddress
from typing import Final

from blockstore.cid import base58_encode, read_uvarint
from blockstore.errors import BadCid

#: name and size in bits by code; -1: a size in front, 0: none
_PROTOCOLS: Final[dict[int, tuple[str, int]]] = {
    4: ("ip4", 32), 6: ("tcp", 16), 33: ("dccp", 16), 41: ("ip6", 128), 42: ("ip6zone", -1), 53: ("dns", -1),
    54: ("dns4", -1), 55: ("dns6", -1), 56: ("dnsaddr", -1), 132: ("sctp", 16), 273: ("udp", 16),
    280: ("webrtc-direct", 0), 281: ("webrtc", 0), 290: ("p2p-circuit", 0), 421: ("p2p", -1), 443: ("https", 0),
    448: ("tls", 0), 460: ("quic", 0), 461: ("quic-v1", 0), 465: ("webtransport", 0), 477: ("ws", 0), 478: ("wss", 0),
    480: ("http", 0),
}  # fmt: skip


def multiaddr_text(data: bytes) -> str:
    """The text of a multiaddress; of bytes that are none, or of a protocol not listed here, "0x" and hexadecimal."""
    try:
        return _text(data) or "0x" + data.hex()
    except (BadCid, ValueError, IndexError):
        return "0x" + data.hex()


def _text(data: bytes) -> str:
    out, at = "", 0
    while at < len(data):
        code, at = read_uvarint(data, at)
        if code not in _PROTOCOLS:
            raise ValueError(f"protocol {code}")
        name, bits = _PROTOCOLS[code]
        size, at = read_uvarint(data, at) if bits < 0 else (bits // 8, at)
        value, at = data[at : at + size], at + size
        if len(value) != size:
            raise ValueError("cut short")
        out += f"/{name}{_value(name, value)}"
    return out


def _value(name: str, value: bytes) -> str:
    if not value:
        return ""
    if name in ("ip4", "ip6"):
        return f"/{ipaddress.ip_address(value)}"
    if name == "p2p":
        return f"/{base58_encode(value)}"
    if name.startswith("dns") or name == "ip6zone":
        return f"/{value.decode()}"
    return f"/{int.from_bytes(value, 'big')}"
