"""Who fetches an object, among the processes of a machine: a lock on one byte of a file, freed when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

#: the byte of a multihash is at one of so many places
_PLACES: Final = 1 << 62
#: claims that a process holds at most: the system looks through all locks of a file for each one
_MOST: Final = 256


class Claims:
    """Claims of this process in a file that the processes share. Open one file only once a process: closing any of its
    descriptors frees every lock that the process has in it. Errors on opening: OSError.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: dict[int, int] = {}

    def close(self) -> None:
        """Give every claim back. A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def take(self, multihash: bytes) -> bool:
        """Whether this process is to fetch the object; no other one gets the claim until `give`.

        Who holds many claims already fetches without one: another process may then fetch the same object.
        """
        place = _place(multihash)
        count = self._held.get(place, 0)
        if not count:
            if len(self._held) >= _MOST:
                return True
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                # another process has it, or the system has no more locks: then it is fetched when nobody brings it
                return False
        self._held[place] = count + 1
        return True

    def give(self, multihash: bytes) -> None:
        """Give a claim back."""
        place = _place(multihash)
        count = self._held.pop(place, 0)
        if count > 1:
            self._held[place] = count - 1
        elif count and self._file >= 0:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


def _place(multihash: bytes) -> int:
    return int.from_bytes(multihash[-8:], "big") % _PLACES
