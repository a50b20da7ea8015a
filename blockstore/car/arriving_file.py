"""A file that another process still writes: a read at its end waits for more."""

from __future__ import annotations

import io
import os
import select
from pathlib import Path
from types import TracebackType
from typing import Final

#: seconds between two looks at whether the file has grown
_LOOK: Final = 0.05


class ArrivingFile(io.RawIOBase):
    """Reads a file that grows. It is whole when the pipe `ended` (a file descriptor) is closed at its other end.

    Errors: OSError.
    """

    def __init__(self, path: str | Path, ended: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._ended = ended
        self._is_whole = False

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; b"" at the end of the whole file only."""
        while True:
            # asked before the read: what came before the end is there to be read
            is_whole = self._look(0)
            data = self._file.read(size)
            if data or is_whole:
                return data or b""
            self._look(_LOOK)

    def _look(self, seconds: float) -> bool:
        if not self._is_whole and select.select([self._ended], [], [], seconds)[0]:
            self._is_whole = not os.read(self._ended, 1)
        return self._is_whole

    def seekable(self) -> bool:
        """Yes, in what is there."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._file.tell()

    def seek(self, at: int, whence: int = io.SEEK_SET) -> int:
        """Move in what is there; SEEK_END is the end for now."""
        return self._file.seek(at, whence)

    def close(self) -> None:
        """Close the file. The pipe stays open."""
        if hasattr(self, "_file"):
            self._file.close()
        super().close()

    def __enter__(self) -> ArrivingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
