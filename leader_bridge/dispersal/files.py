"""A file sent to followers, a segment at a time: the leader sends little more than the file, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blockstore.errors import StoreError
from blockstore.shards.files import SEGMENT_BYTES, figures_of
from blockstore.shards.manifest import check_name
from leader_bridge.dispersal.sender import Sender


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a file: its SHA-256 in hex, and the followers that have not got it, with the reason."""

    digest: str
    failed: Mapping[str, str]


async def send_file(
    sender: Sender,
    path: Path,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Delivery:
    """Send a file to all followers, each segment behind the one before. `progress`: bytes sent, and of the file.

    A follower that fails is left out of the rest and named in what is returned; sending again completes it.
    Errors: ValueError (its name, or it is empty, or it changes meanwhile), OSError, StoreError.
    """
    check_name(path.name)
    total, digest = await asyncio.to_thread(figures_of, path)
    if not total:
        raise ValueError(f"{path} is empty")
    waited = list(sender.followers)
    failed: dict[str, str] = {}
    with path.open("rb") as file:
        for offset in range(0, total, segment_bytes):
            piece = await asyncio.to_thread(file.read, segment_bytes)
            if len(piece) != min(segment_bytes, total - offset):
                raise ValueError(f"{path} has changed while it was sent")
            sent = await sender.send(piece, file=path.name, offset=offset, total=total, digest=digest)
            ends = await asyncio.gather(*(sender.complete(sent, one) for one in waited), return_exceptions=True)
            for follower, end in zip(list(waited), ends, strict=True):
                if isinstance(end, StoreError):
                    failed[follower.name] = str(end)
                    waited.remove(follower)
                elif end is not None:
                    raise end
            if not waited:
                break
            progress(offset + len(piece), total)
    return Delivery(digest, failed)
