"""Rates that all processes of a machine take from: a table in a file that each of them maps into its memory.

A rate is one number, the time at which its bucket is full again, so a look and a change are one read and one write of
eight bytes. There is no lock: of calls that two processes admit in the same microsecond one may not be counted.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Final

from rpc.server.gate.token_bucket import TokenBucket

#: rates that a table holds at once. One whose bucket is full needs no place
_SLOTS: Final = 16_384
#: places that a rate may stand at
_TRIES: Final = 8
_DIGEST_BYTES: Final = 16
_SLOT: Final = Struct(f"<{_DIGEST_BYTES}sd")
_TIME: Final = Struct("<d")
#: tokens that a bucket can lack beyond what it can hold: those of the dearest call
_DEAREST: Final = 10.0


class SharedRates:
    """The table in a file, which is made where it is not there. Errors of the constructor: OSError."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(handle).st_size < _SLOTS * _SLOT.size:
                os.ftruncate(handle, _SLOTS * _SLOT.size)
            self._table = mmap.mmap(handle, _SLOTS * _SLOT.size)
        finally:
            os.close(handle)
        self._clock = clock

    def bucket(self, name: str, rate: float, burst: float) -> TokenBucket:
        """The bucket that every process finds under this name, rate and burst."""
        digest = hashlib.blake2b(f"{rate!r} {burst!r} {name}".encode(), digest_size=_DIGEST_BYTES).digest()
        return SharedBucket(self._table, digest, rate, burst, self._clock)


class SharedBucket(TokenBucket):
    """As `TokenBucket`, in a table. Where the table has no place, it is this process's alone."""

    __slots__ = ("_digest", "_places", "_table")

    def __init__(self, table: mmap.mmap, digest: bytes, rate: float, burst: float, clock: Callable[[], float]) -> None:
        super().__init__(rate, burst, clock)
        self._table = table
        self._digest = digest
        first = int.from_bytes(digest[:4]) % _SLOTS
        self._places = [(first + step) % _SLOTS * _SLOT.size for step in range(_TRIES)]

    def wait_seconds(self, amount: float) -> float:
        """As of a `TokenBucket`."""
        now = self._clock()
        at = self._find(now)
        if at is None:
            return super().wait_seconds(amount)
        left = self.burst - self._seconds_to_full(at, now) * self.rate
        return max(0.0, (min(amount, self.burst) - left) / self.rate)

    def take(self, amount: float) -> None:
        """As of a `TokenBucket`."""
        now = self._clock()
        at = self._find(now)
        if at is None:
            super().take(amount)
            return
        full_at = now + self._seconds_to_full(at, now) + amount / self.rate
        _TIME.pack_into(self._table, at + _DIGEST_BYTES, full_at)

    def _seconds_to_full(self, at: int, now: float) -> float:
        (full_at,) = _TIME.unpack_from(self._table, at + _DIGEST_BYTES)
        seconds = max(0.0, float(full_at) - now)
        # a time that no process of this start of the machine has written
        return seconds if seconds * self.rate <= self.burst + _DEAREST else 0.0

    def _find(self, now: float) -> int | None:
        """Where it stands: its own place, else one that nobody needs, which is its own from now on."""
        free: int | None = None
        for at in self._places:
            digest, full_at = _SLOT.unpack_from(self._table, at)
            if digest == self._digest:
                return at
            if free is None and full_at <= now:
                free = at
        if free is not None:
            _SLOT.pack_into(self._table, free, self._digest, now)
        return free
