"""Files that arrive in segments: what a crash and a second sender leave."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import time
from pathlib import Path

import pytest

from blockstore.memory import MemoryStore
from blockstore.shards.manifest import Manifest
from follower.commands.disperse import disperse
from follower.object_tier import files
from follower.object_tier.files import ReceivedFiles
from follower.settings import CannotRun, load_settings
from leader_bridge.dispersal.sender import Sender
from rpc.client.shards import ShardClient

DATA = b"abcdefgh" * 100


def segment(offset: int, size: int) -> tuple[Manifest, bytes]:
    digest = hashlib.sha256(DATA).hexdigest()
    return Manifest(bytes(32), size, 2, 1, 0, "file.car", offset, len(DATA), digest), DATA[offset : offset + size]


def test_a_line_of_the_notes_that_a_crash_has_cut(tmp_path: Path) -> None:
    received = ReceivedFiles(tmp_path)
    received.write(*segment(0, 300))
    (notes,) = tmp_path.glob("*.segments")
    with notes.open("a") as file:
        file.write("[300, 2")
    received.write(*segment(300, 200))
    received.write(*segment(500, 300))
    assert {path.name for path in tmp_path.iterdir()} == {"file.car"}
    assert (tmp_path / "file.car").read_bytes() == DATA


def test_what_was_never_sent_to_its_end_is_removed_after_a_week(tmp_path: Path) -> None:
    ReceivedFiles(tmp_path).write(*segment(0, 300))
    (arriving,) = tmp_path.glob("*.part")
    ReceivedFiles(tmp_path)
    assert arriving.exists()
    week_ago = time.time() - 7 * 86400 - 60
    os.utime(arriving, (week_ago, week_ago))
    ReceivedFiles(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_segment_that_comes_again_while_the_file_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the notes of a file that is finished and gone by the time it gets them: a file that begins anew."""
    received = ReceivedFiles(tmp_path)
    received.write(*segment(0, 300))
    really_lock = fcntl.flock
    waiting = [segment(300, 500)]

    def lock(file: int, how: int) -> None:
        if waiting:
            # another process goes first
            received.write(*waiting.pop())
        really_lock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", lock)
    received.write(*segment(0, 300))
    assert (tmp_path / "file.car").read_bytes() == DATA
    # and whoever sends the file anew completes it
    received.write(*segment(300, 500))
    assert {path.name for path in tmp_path.iterdir()} == {"file.car"}
    assert (tmp_path / "file.car").read_bytes() == DATA


async def test_a_follower_gets_time_to_be_given_shards_by_its_peers() -> None:
    class Follower(ShardClient):
        """Its peers pass the first shards on to it after it was asked what it has."""

        looks = 0

        async def held(self, root: bytes) -> set[int] | None:
            self.looks += 1
            return set() if self.looks == 1 else None

        async def send(self, root: bytes, index: int, body: bytes, *, relay: bool) -> bool:
            self.sent_bytes += len(body)
            return False

    sender = Sender(MemoryStore("z"), ["http://127.0.0.1:1"], "a secret")
    sent = await sender.send(DATA)
    follower = Follower("http://127.0.0.1:1", "a secret")
    await sender.complete(sent, follower)
    assert follower.sent_bytes == 0
    await sender.close()


def test_a_store_that_no_follower_reads_sends_nothing(tmp_path: Path) -> None:
    """Without --store it would be another one: no follower takes what its own store does not name."""
    file = tmp_path / "snapshot.car"
    file.write_bytes(DATA)
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    given = {"store": f"lmdb://{tmp_path}/store", "disperse_to": "http://127.0.0.1:1"}
    settings = load_settings(None, {}, {**given, "object_peer_secret_file": str(secret)}, "disperse")
    with pytest.raises(CannotRun, match="is empty: give --store"):
        disperse.run(settings, argparse.Namespace(file=file, folders=None))
