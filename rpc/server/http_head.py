"""The head of one HTTP request, as httptools reads it: what the hot path needs of it, and no more."""

from __future__ import annotations


class RequestHead:
    """The fields of the head that is being read. httptools calls the `on_…` methods."""

    __slots__ = ("authorization", "forwarded", "has_connection_header", "is_special", "length", "min_head", "url")

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
        elif size == 6:
            if name.lower() == b"expect":
                self.is_special = True
        elif size == 7:
            if name.lower() == b"upgrade":
                self.is_special = True
        elif size == 19 and name.lower() == b"x-filecoin-min-head":
            self.min_head = value.decode("latin-1")
