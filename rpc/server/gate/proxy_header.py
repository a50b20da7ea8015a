"""The header of the PROXY protocol, versions 1 and 2: how a balancer tells whom a connection is from.

It comes once, before the first byte of the client's. Source: HAProxy `doc/proxy-protocol.txt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

#: what version 1 and version 2 begin with. No HTTP request of ours begins like either
V1_SIGNATURE: Final = b"PROXY "
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
#: the longest line of version 1, with its end
_V1_LONGEST: Final = 107
#: the longest header of version 2 that is read; the protocol allows 65,551 bytes
V2_LONGEST: Final = 4096
_V2_FIXED: Final = 16
_V2_VERSION: Final = 0x20
_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX_STREAM: Final = 0x31
#: bytes of the two addresses and ports, by family and transport
_ADDRESS_BYTES: Final = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216, _UNSPECIFIED: 0}
_TLV_HEAD: Final = 3
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}", re.ASCII)
_LARGEST_PORT: Final = 65_535


class BadProxyHeader(Exception):
    """These bytes are no PROXY header, or one that says nothing about a TCP connection."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """`length`: bytes of the header. `client`: its address; "" where none is named."""

    length: int
    client: str


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None while it is not whole. Errors: BadProxyHeader."""
    if data[: len(V2_SIGNATURE)] == V2_SIGNATURE[: len(data)]:
        return _read_v2(data)
    if data[: len(V1_SIGNATURE)] == V1_SIGNATURE[: len(data)]:
        return _read_v1(data)
    raise BadProxyHeader("no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise BadProxyHeader("the line is too long")
        return None
    words = data[:end].split(b" ")
    family = words[1]
    if family == b"UNKNOWN":
        # whatever stands behind it
        return ProxyHeader(end + 2, "")
    if family not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise BadProxyHeader("not two addresses and two ports of TCP4 or TCP6")
    try:
        client, _ = (_address(family == b"TCP6", word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise BadProxyHeader("not an address of its family") from None
    for word in words[4:]:
        if not _PORT.fullmatch(word) or int(word) > _LARGEST_PORT:
            raise BadProxyHeader("not a port")
    return ProxyHeader(end + 2, client)


def _address(is_v6: bool, text: str) -> str:
    """Errors: ValueError."""
    if not is_v6:
        return str(IPv4Address(text))
    if "%" in text:
        raise ValueError("an address with a zone")
    return str(IPv6Address(text))


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_FIXED:
        return None
    version, command = data[12] & 0xF0, data[12] & 0x0F
    length = int.from_bytes(data[14:16])
    if version != _V2_VERSION or command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("neither LOCAL nor PROXY of version 2")
    if _V2_FIXED + length > V2_LONGEST:
        raise BadProxyHeader("the header is too long")
    family = data[13]
    if command == _PROXY and (family not in _ADDRESS_BYTES or length < _ADDRESS_BYTES[family]):
        raise BadProxyHeader("not the addresses of a stream")
    whole = _V2_FIXED + length
    if len(data) < whole:
        return None
    client = ""
    if command == _PROXY:
        if family == _TCP4:
            client = str(IPv4Address(data[16:20]))
        elif family == _TCP6:
            client = str(IPv6Address(data[16:32]))
        _check_fields(data[_V2_FIXED + _ADDRESS_BYTES[family] : whole])
    return ProxyHeader(whole, client)


def _check_fields(data: bytes) -> None:
    """What follows the addresses: fields of a type, a length and a value. None of them is used."""
    at = 0
    while at < len(data):
        if at + _TLV_HEAD > len(data):
            raise BadProxyHeader("a field without its length")
        at += _TLV_HEAD + int.from_bytes(data[at + 1 : at + 3])
    if at != len(data):
        raise BadProxyHeader("a field is longer than the header")
