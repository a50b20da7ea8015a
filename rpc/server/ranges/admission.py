"""Which request is within the limits of a second: of its token, and of all. For a process, or for a machine.

For a machine the last starts stand in a file that every process maps into its memory, under a lock of the file: a look
and a start take microseconds, and there are few of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Final, Protocol

from rpc.server.ranges.window import Window

_NEXT: Final = Struct("<Q")
_TIME: Final = Struct("<d")


class Admission(Protocol):
    """Counts requests. Times are seconds, monotonic."""

    def admit(self, name: str, now: float) -> float:
        """Seconds until a request of this token may come; 0: this one is counted."""


class OwnAdmission:
    """The limits of one process: `per_second` for each of `names`, `in_all` for all together."""

    def __init__(self, names: Sequence[str], per_second: int, in_all: int) -> None:
        self._windows = {name: Window(per_second) for name in names}
        self._all = Window(in_all)

    def admit(self, name: str, now: float) -> float:
        """See `Admission`."""
        window = self._windows[name]
        wait = max(window.wait_seconds(now), self._all.wait_seconds(now))
        if not wait:
            window.start(now)
            self._all.start(now)
        return wait


class SharedAdmission:
    """The limits of all processes that name the same file, tokens and limits. Errors of the constructor: OSError.

    `path`: others are made beside it, one for each set of tokens and limits.
    """

    def __init__(self, path: Path, names: Sequence[str], per_second: int, in_all: int) -> None:
        said = repr((sorted(names), per_second, in_all)).encode()
        file = path.with_name(f"{path.name}.ranges-{hashlib.blake2b(said, digest_size=8).hexdigest()}")
        #: where the ring of each token begins; all together at 0
        first, each = self._bytes(in_all), self._bytes(per_second)
        self._rings = {name: first + at * each for at, name in enumerate(sorted(names))}
        self._per_second = per_second
        self._in_all = in_all
        self._lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = self._bytes(in_all) + len(names) * self._bytes(per_second)
        if os.fstat(self._lock).st_size < size:
            os.ftruncate(self._lock, size)
        self._table = mmap.mmap(self._lock, size)

    def admit(self, name: str, now: float) -> float:
        """See `Admission`."""
        rings = ((0, self._in_all), (self._rings[name], self._per_second))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            wait = max(self._wait_seconds(at, limit, now) for at, limit in rings)
            if not wait:
                for at, limit in rings:
                    self._start(at, limit, now)
            return wait
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @staticmethod
    def _bytes(limit: int) -> int:
        return _NEXT.size + limit * _TIME.size

    def _place(self, at: int, limit: int) -> int:
        """Where the oldest start of a ring stands: the next one takes its place."""
        return at + _NEXT.size + int(_NEXT.unpack_from(self._table, at)[0]) % limit * _TIME.size

    def _wait_seconds(self, at: int, limit: int, now: float) -> float:
        (oldest,) = _TIME.unpack_from(self._table, self._place(at, limit))
        # 0: there were not so many; later than now: before the machine was started again
        return 0.0 if not 0 < oldest <= now else max(0.0, float(oldest) + 1.0 - now)

    def _start(self, at: int, limit: int, now: float) -> None:
        _TIME.pack_into(self._table, self._place(at, limit), now)
        _NEXT.pack_into(self._table, at, _NEXT.unpack_from(self._table, at)[0] + 1)
