"""The head of one HTTP request, as httptools reads it: what the hot path needs of it, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import httptools

from rpc.server.answers.packed import accepts_gzip

#: what ends the head of a request or an answer
HEAD_END: Final = b"\r\n\r\n"
#: how the head of an answer ends that says what becomes of the connection
CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
STAY_OPEN: Final = b"\r\nConnection: keep-alive\r\n\r\n"
#: the API's version by path, and how requests begin that the hot path can take
RPC_PATHS: Final = {b"/rpc/v0": 0, b"/rpc/v1": 1, b"/rpc/v2": 2}
RPC_BEGINNINGS: Final = tuple(
    b"%s %s%s" % (verb, path, end) for end in (b" ", b"?") for path in RPC_PATHS for verb in (b"POST", b"PUT")
)
#: heads that are remembered in one process, and the longest of them
_KNOWN_HEADS: Final = 1024
_KNOWN_HEAD_BYTES: Final = 1024


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header lines as they go into a head, each with its line end before it."""
    return "".join(f"\r\n{name}: {value}" for name, value in headers).encode()


@dataclass(frozen=True, slots=True)  # no tuple: the names of its fields are slower to read
class KnownHead:
    """What a head said that has come before. `keep`: whether the connection stays open behind its answer.

    `version`: the API's, where the URL is a path without a query, no certain head is asked for and the connection stays
    open; else -1. `last_lines`: how the head of its answer ends. `gzip`: whether its client takes that.
    """

    url: bytes
    length: int
    min_head: str | None
    forwarded: bytes
    has_connection_header: bool
    keep: bool
    version: int
    last_lines: bytes
    gzip: bool


class KnownHeads:
    """The heads that clients repeat, by their bytes: most clients send the same few. Reading one costs 2 µs.

    No head with an Authorization is remembered: secrets do not outlive their request.
    """

    def __init__(self) -> None:
        self.heads: dict[bytes, KnownHead] = {}

    def remember(self, data: bytes, head: KnownHead) -> None:
        """Know these bytes from now on. Too many, and all are forgotten: whoever sends ever new heads gains nothing."""
        if len(data) <= _KNOWN_HEAD_BYTES:
            if len(self.heads) >= _KNOWN_HEADS:
                self.heads.clear()
            self.heads[data] = head


class RequestHead:
    """The fields of the head that is being read. httptools calls the `on_…` methods."""

    __slots__ = (
        "accept_encoding", "authorization", "forwarded", "gzip", "has_connection_header", "is_special", "length",
        "min_head", "url",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin_head()

    def begin_head(self) -> None:
        """Forget the head of the last request."""
        self.url = b""
        #: Content-Length; -1 without one
        self.length = -1
        #: whether the request is not for the hot path: an upgrade, a chunked body, an expectation
        self.is_special = False
        self.authorization: str | None = None
        self.min_head: str | None = None
        #: X-Forwarded-For, all of them joined
        self.forwarded = b""
        self.has_connection_header = False
        #: Accept-Encoding, all of them joined, and whether gzip is among them
        self.accept_encoding = b""
        self.gzip = False

    def take_head(self, head: KnownHead) -> None:
        """Be what this head says, as if it had been read."""
        self.url, self.length, self.min_head = head.url, head.length, head.min_head
        self.forwarded, self.has_connection_header, self.gzip = head.forwarded, head.has_connection_header, head.gzip
        self.is_special, self.authorization = False, None

    def read_head(self, parser: httptools.HttpRequestParser, head: bytes) -> KnownHead:
        """What a head says that has not come before. Errors: HttpParserError."""
        self.begin_head()
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self.is_special = True
        keep = parser.should_keep_alive()
        version = RPC_PATHS.get(self.url, -1) if keep and self.min_head is None else -1
        self.gzip = accepts_gzip(self.accept_encoding)
        says = self.has_connection_header
        last_lines = CLOSE if not keep else STAY_OPEN if says else HEAD_END
        known = self.url, self.length, self.min_head, self.forwarded, says, keep, version, last_lines, self.gzip
        return KnownHead(*known)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name)
        if size == 14:
            if name.lower() == b"content-length":
                self.length = int(value)
        elif size == 10:
            if name.lower() == b"connection":
                self.has_connection_header = True
        elif size == 13:
            if name.lower() == b"authorization":
                self.authorization = value.decode("latin-1")
        elif size == 17:
            if name.lower() == b"transfer-encoding":
                self.is_special = True
        elif size == 15:
            if name.lower() == b"x-forwarded-for":
                self.forwarded = self.forwarded + b"," + value if self.forwarded else value
            elif name.lower() == b"accept-encoding":
                self.accept_encoding += b"," + value
        elif size == 6:
            if name.lower() == b"expect":
                self.is_special = True
        elif size == 7:
            if name.lower() == b"upgrade":
                self.is_special = True
        elif size == 19 and name.lower() == b"x-filecoin-min-head":
            self.min_head = value.decode("latin-1")
