"""`python -m tests.fleet.skewed FILE ARGUMENTS…`: the command line, with a clock that FILE sets wrong while it runs.

FILE holds eight bytes, a signed number of milliseconds (little endian), added to every reading of the wall clock.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path


class Skew:
    """The file of a clock's error, as the test that sets it sees it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def set(self, milliseconds: int) -> None:
        """From now on."""
        with self.file.open("r+b" if self.file.exists() else "wb") as out:
            out.write(struct.pack("<q", milliseconds))


def main() -> int:
    """The exit code of the command."""
    with open(sys.argv[1], "rb") as stream:
        shared = mmap.mmap(stream.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time_ns
    time.time_ns = lambda: real() + struct.unpack("<q", shared[:8])[0] * 1_000_000
    from follower.cli import main as run

    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
