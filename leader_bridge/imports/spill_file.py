"""Keeps the tipset keys of a walk down a chain for the way up. They are on disk: a chain has millions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from chain.tipset import TipsetKey

_CHUNK: Final = 1 << 20
_SIZE: Final = 4


class KeySpillFile:
    """Append keys, then read them in reverse order. A small file stays in memory. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=8 << 20)  # noqa: SIM115
        self._length = 0
        self.count = 0

    def append(self, key: TipsetKey) -> None:
        """Remember one more key."""
        self._file.write(key + len(key).to_bytes(_SIZE, "big"))
        self._length += len(key) + _SIZE
        self.count += 1

    def backwards(self) -> Iterator[TipsetKey]:
        """Every key, the last one first."""
        left = self._length
        tail = b""
        while left or tail:
            size = int.from_bytes(tail[-_SIZE:], "big") + _SIZE if len(tail) >= _SIZE else None
            if size is None or len(tail) < size:
                step = min(_CHUNK, left)
                left -= step
                self._file.seek(left)
                tail = self._file.read(step) + tail
                continue
            # cut keys off the end until the rest may be incomplete
            end = len(tail)
            while end >= _SIZE:
                size = int.from_bytes(tail[end - _SIZE : end], "big")
                if end < size + _SIZE:
                    break
                yield TipsetKey(tail[end - _SIZE - size : end - _SIZE])
                end -= size + _SIZE
            tail = tail[:end]

    def __enter__(self) -> KeySpillFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
