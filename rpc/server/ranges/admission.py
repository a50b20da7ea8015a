"""Which request is within the limits of a second, of its token and of all; and how many are worked on at once.

For a process, or for a machine. For a machine the last starts stand in a file that every process maps into its memory,
under a lock of the file: a look and a start take microseconds, and there are few of them. A place of an answer is a
lock on one byte of another file: the kernel gives back what a killed process held.
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
#: struct flock: type, whence, start, length, process (0: the lock belongs to the open file)
_FLOCK: Final = Struct("@hhqqi0q")


class Admission(Protocol):
    """Counts requests. Times are seconds, monotonic."""

    def admit(self, name: str, now: float) -> float:
        """Seconds until a request of this token may come; 0: this one is counted."""

    def enter(self, at_once: int) -> int | None:
        """A place for an answer in the making, of `at_once`; None where all are taken. Give it back with `leave`."""

    def leave(self, place: int) -> None:
        """An answer is made."""


class OwnAdmission:
    """The limits of one process: `per_second` for each of `names`, `in_all` for all together."""

    def __init__(self, names: Sequence[str], per_second: int, in_all: int) -> None:
        self._windows = {name: Window(per_second) for name in names}
        self._all = Window(in_all)
        self._taken: set[int] = set()

    def admit(self, name: str, now: float) -> float:
        """See `Admission`."""
        window = self._windows[name]
        wait = max(window.wait_seconds(now), self._all.wait_seconds(now))
        if not wait:
            window.start(now)
            self._all.start(now)
        return wait

    def enter(self, at_once: int) -> int | None:
        """See `Admission`."""
        place = next((one for one in range(at_once) if one not in self._taken), None)
        if place is not None:
            self._taken.add(place)
        return place

    def leave(self, place: int) -> None:
        """See `Admission`."""
        self._taken.discard(place)


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
        self._places = os.open(file.with_name(f"{file.name}.places"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        #: those of this process: its own locks do not keep it out
        self._taken: set[int] = set()

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

    def enter(self, at_once: int) -> int | None:
        """See `Admission`."""
        for place in range(at_once):
            if place not in self._taken and self._lock_place(place, fcntl.F_WRLCK):
                self._taken.add(place)
                return place
        return None

    def leave(self, place: int) -> None:
        """See `Admission`."""
        self._taken.discard(place)
        self._lock_place(place, fcntl.F_UNLCK)

    def _lock_place(self, place: int, how: int) -> bool:
        """Lock or unlock the byte of a place; False where another process has it."""
        try:
            # of the open file, not of the process: another one of this process counts too
            fcntl.fcntl(self._places, fcntl.F_OFD_SETLK, _FLOCK.pack(how, os.SEEK_SET, place, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

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
