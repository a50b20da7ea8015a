"""Shards of files in a folder, for those who may take ranges: a list of them, and each with its proof."""

from __future__ import annotations

import heapq
import logging
from pathlib import Path

from blockstore.shards.erasure import BadShards
from blockstore.shards.folder import ShardFile, is_shard_name, parse_shard, read_start
from chain.errors import NotHeld
from rpc.server.ranges.bundle import TooLarge
from rpc.server.ranges.wire import HARD_BYTES, MOST_SHARDS, KeptShard, write_kept

log = logging.getLogger("follower.ranges")


class ShardFiles:
    """The folder. Calls read files: make them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def listed(self, after: str) -> bytes:
        """The first `MOST_SHARDS` shards behind a name, as `wire.write_kept` gives them. Errors: OSError."""
        found: list[KeptShard] = []
        while len(found) < MOST_SHARDS:
            names = (one.name for one in self._folder.iterdir() if one.name > after and is_shard_name(one.name))
            page = heapq.nsmallest(MOST_SHARDS - len(found), names)
            if not page:
                break
            after = page[-1]
            for name in page:
                try:
                    one: ShardFile = read_start(self._folder / name)
                except (BadShards, FileNotFoundError, IsADirectoryError):
                    # no shard, or removed meanwhile
                    continue
                found.append(KeptShard(name, one.manifest, one.index))
        return write_kept(found)

    def content(self, name: str) -> bytes:
        """A shard, as its file holds it. Errors: NotHeld (also one whose proof does not fit), TooLarge, OSError."""
        if not is_shard_name(name):
            raise NotHeld("no shard has such a name")
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(HARD_BYTES + 1)
        except (FileNotFoundError, IsADirectoryError):
            raise NotHeld("the shard is not kept here") from None
        if len(data) > HARD_BYTES:
            raise TooLarge(f"the shard is larger than {HARD_BYTES} bytes")
        try:
            parse_shard(data)
        except BadShards as error:
            # a damaged file is this follower's trouble: whoever gets it would take us for a liar
            log.warning("a shard is not given, its file is damaged: %s: %s", name, error)
            raise NotHeld("the shard is not kept here") from None
        return data
