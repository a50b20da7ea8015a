"""Shards that arrive, in a folder that the processes of a machine share, until the piece can be put together.

A balancer gives each connection to another process of a machine, so no process has all shards in its memory. Each
shard is a file; who brings the last one that is needed puts the piece together. What is cut short by a crash is
asked from elsewhere: nothing depends on a piece.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import threading
from pathlib import Path
from typing import Final

from blockstore.shards.erasure import join
from blockstore.shards.manifest import Manifest, Shard
from blockstore.shards.merkle import is_proven
from blockstore.tier.claims import Claims

#: pieces whose shards are in the folder; more make room, the oldest first
_MOST_PIECES: Final = 32
#: in the folder of a piece that was put together
_DONE: Final = "done"


class Outcome(enum.Enum):
    """What became of a shard."""

    NEW = "new"
    KNOWN = "known"
    #: the piece was put together already
    ENOUGH = "enough"
    #: its proof does not lead to the root
    REFUSED = "refused"


class Inbox:
    """The folder. Blocking: call it in a thread. Open one in a process (its claims are the process's).

    `most_bytes`: of all shards; more make room, the oldest piece first. Errors on opening: OSError.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._claims = Claims(folder / "claims")
        #: pieces that this process has in hand: its claims keep only other processes away
        self._in_hand: set[bytes] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the claims back. A second call does nothing."""
        self._claims.close()

    def add(self, manifest: Manifest, shard: Shard) -> Outcome:
        """Keep a shard that is proven. Errors: OSError."""
        place = self._place(manifest)
        if (place / _DONE).exists():
            return Outcome.ENOUGH
        if not is_proven(manifest.root, manifest.count, shard.index, shard.data, shard.proof):
            return Outcome.REFUSED
        if (place / str(shard.index)).exists():
            return Outcome.KNOWN
        self._make_room(manifest)
        place.mkdir(exist_ok=True)
        # a name of its own: two processes, or threads, may be given the same shard at once
        arriving = place / f"{shard.index}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            arriving.write_bytes(shard.data)
            arriving.replace(place / str(shard.index))
        except FileNotFoundError:
            # another process made room
            return Outcome.KNOWN
        finally:
            arriving.unlink(missing_ok=True)
        return Outcome.NEW

    def held(self, manifest: Manifest) -> set[int]:
        """The shards that have arrived."""
        try:
            return {int(name) for name in os.listdir(self._place(manifest)) if name.isdigit()}
        except FileNotFoundError:
            return set()

    def is_done(self, manifest: Manifest) -> bool:
        """Whether the piece was put together here."""
        return (self._place(manifest) / _DONE).exists()

    def take(self, manifest: Manifest) -> bytes | None:
        """The piece, for the one process that gets it: `finish` it. None where shards are still lacking, where
        another process has it in hand, or where it was finished. Errors: OSError, BadShards, StoreUnavailable.
        """
        place = self._place(manifest)
        held = self.held(manifest)
        if len(held) < manifest.data or not self._claim(manifest.root):
            return None
        piece: bytes | None = None
        try:
            if not (place / _DONE).exists():
                shards = [(place / str(index)).read_bytes() for index in sorted(held)[: manifest.data]]
                piece = join(shards, manifest.size, manifest.data, manifest.parity)
        except FileNotFoundError:
            # another process made room
            pass
        finally:
            if piece is None:
                self._give(manifest.root)
        return piece

    def finish(self, manifest: Manifest, *, used: bool) -> None:
        """Note that a piece that was taken is used, and drop its shards; or leave it for another try."""
        place = self._place(manifest)
        with contextlib.suppress(FileNotFoundError):
            if used:
                (place / _DONE).touch()
                for index in self.held(manifest):
                    (place / str(index)).unlink(missing_ok=True)
        self._give(manifest.root)

    def _claim(self, root: bytes) -> bool:
        with self._lock:
            if root in self._in_hand or not self._claims.take(root):
                return False
            self._in_hand.add(root)
            return True

    def _give(self, root: bytes) -> None:
        with self._lock:
            self._in_hand.discard(root)
            self._claims.give(root)

    def _place(self, manifest: Manifest) -> Path:
        return self._folder / manifest.root.hex()

    def _make_room(self, manifest: Manifest) -> None:
        """Drop the oldest pieces, whole or not, until the new shard's piece fits."""
        found: list[tuple[float, int, Path]] = []
        for place in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                size = sum(one.stat().st_size for one in os.scandir(place))
                found.append((place.stat().st_mtime, size, place))
        others = sorted(one for one in found if one[2] != self._place(manifest))
        used = sum(size for _, size, _ in found)
        while others and (len(others) >= _MOST_PIECES or used + manifest.most_shard_bytes > self._most_bytes):
            _, size, place = others.pop(0)
            shutil.rmtree(place, ignore_errors=True)
            used -= size
