"""The answers that a process keeps, by their questions and by the bytes of requests: bounded in bytes.

Nearly every answer is found by its request's bytes. That is one look into a dictionary, and a flag that is set: to move
entries in a list of their uses would write to the memory of several others, which the core's caches rarely hold. What
was found so gets a second chance when it is the next to leave (CLOCK); other uses count at once, as in any LRU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from cachetools import LRUCache

from rpc.context import SeenActor
from rpc.json_wire import JsonText, Text, parts_of
from rpc.server.answers.packed import Packed
from rpc.server.http_head import header_lines
from rpc.server.metrics import MethodStats

#: what an entry, and a request's bytes that lead to one, take beside their text: measured with sys.getsizeof
_ENTRY_BYTES: Final = 400
#: what the actor takes that an answer is a function of, measured as above, and no header takes more
_SEEN_BYTES: Final = 800
#: the share of all bytes that one answer may take
_ANSWER_SHARE: Final = 16
#: ways of writing one question that are remembered: few clients differ in that
_MOST_REQUESTS: Final = 8
#: answers that are passed over at once, because they were found since the last time: the rest waits for the next
_SECOND_CHANCES: Final = 32
_NO_HEADERS: Final[Mapping[str, list[str]]] = {}


class Kept:
    """One answer. `text`: all of it behind the id. `epoch`: what it depends on of the chain, as of `head_number`.

    `key`: that of its question. `seen`: of an answer that depends on the head by one actor alone, that actor.
    `headers`: those that the method added, `lines` the same as bytes, each with its line end before it. `packed`: the
    text for clients that take gzip, made for the first of them. `requests`: the bytes of requests that lead to it.
    `found`: whether one did since it was last the next to leave.
    """

    __slots__ = (
        "epoch", "found", "head_number", "headers", "key", "lines", "packed", "perm", "requests", "seen", "size",
        "stats", "text",
    )  # fmt: skip

    def __init__(
        self,
        text: Text,
        epoch: int,
        head_number: int,
        perm: str,
        stats: MethodStats,
        key: bytes = b"",
        seen: SeenActor | None = None,
        headers: Mapping[str, list[str]] = _NO_HEADERS,
    ) -> None:
        self.text = text
        self.packed: Packed | None = None
        self.epoch = epoch
        self.head_number = head_number
        self.perm = perm
        self.stats = stats
        self.key = key
        self.seen = seen
        self.headers = headers
        self.lines = header_lines((name, ", ".join(values)) for name, values in headers.items())
        self.requests: tuple[bytes, ...] = ()
        self.found = False
        more = len(headers) + (0 if seen is None else 1)
        #: memory that it takes, about
        self.size = len(text) + len(key) + _ENTRY_BYTES + more * _SEEN_BYTES


class KeptText(JsonText):
    """A whole answer: `start`, and the text of what is kept behind it, whose gzip form need not be made each time."""

    __slots__ = ("kept", "start")

    def __init__(self, start: bytes, kept: Kept) -> None:
        super().__init__((start, *parts_of(kept.text)))
        self.start = start
        self.kept = kept


class _Entries(LRUCache[bytes, Kept]):
    """Answers by their questions. `by_request`: those that leave are taken out of it."""

    def __init__(self, limit: int, by_request: dict[bytes, Kept]) -> None:
        super().__init__(limit, getsizeof=lambda kept: kept.size)
        self._by_request = by_request

    def popitem(self) -> tuple[bytes, Kept]:
        for _ in range(_SECOND_CHANCES):
            key, kept = super().popitem()
            if not kept.found:
                break
            kept.found = False
            self[key] = kept  # what it takes has just become free
        else:
            key, kept = super().popitem()
        for raw in kept.requests:
            del self._by_request[raw]
        return key, kept


class AnswerLru:
    """Answers, `limit` bytes of them at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most = limit // _ANSWER_SHARE
        self.clear()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes in use."""
        return int(self._entries.currsize)

    def clear(self) -> None:
        """Drop everything."""
        #: answers by requests' bytes: who finds one here sets its `found`
        self.by_request: dict[bytes, Kept] = {}
        self._entries = _Entries(self.limit, self.by_request)

    def get(self, key: bytes) -> Kept | None:
        """The answer to a question."""
        return self._entries.get(key)

    def put(self, kept: Kept) -> bool:
        """Keep an answer in the place of an older one to its question; whether there is room for one of its size."""
        if kept.size > self._most:
            return False
        old = self._entries.pop(kept.key, None)
        if old is not None:
            # they ask the same still
            kept.requests = old.requests
            for raw in kept.requests:
                kept.size += len(raw) + _ENTRY_BYTES
                # taken out first, so that it is among the newest
                del self.by_request[raw]
                self.by_request[raw] = kept
        self._entries[kept.key] = kept
        return True

    def add_request(self, kept: Kept, raw: bytes) -> None:
        """Have a request's bytes lead to an answer, if that is kept still."""
        if self._entries.get(kept.key) is not kept or raw in kept.requests:
            return
        if len(kept.requests) == _MOST_REQUESTS:
            oldest = kept.requests[0]
            del self.by_request[oldest]
            kept.requests = kept.requests[1:]
            kept.size -= len(oldest) + _ENTRY_BYTES
        self.by_request[raw] = kept
        kept.requests += (raw,)
        self.grow(kept, len(raw) + _ENTRY_BYTES)

    def grow(self, kept: Kept, more: int) -> None:
        """Count bytes that an answer takes more, if that is kept still."""
        if self._entries.get(kept.key) is kept:
            del self._entries[kept.key]
            kept.size += more
            self._entries[kept.key] = kept

    def newest_requests(self, most: int) -> Iterator[bytes]:
        """The bytes of at most so many requests, the newest first."""
        return islice(reversed(self.by_request), most)
