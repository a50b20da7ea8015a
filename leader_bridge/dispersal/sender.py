"""Sends a piece: cuts it, names it in the store, gives each follower shards of its own."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from blockstore.errors import StoreUnavailable
from blockstore.shards.erasure import DATA_SHARDS, PARITY_SHARDS, cut
from blockstore.shards.manifest import OBJECTS, Manifest, Shard, load_manifests, proven, save_manifest
from blockstore.store import Store
from rpc.client.shards import ShardClient, encode_shard

log = logging.getLogger(__name__)

#: followers below which nothing is cut: one follower is sent all of it in any case, two three quarters
LEAST_FOLLOWERS: Final = 2


#: seconds between two looks at what a follower has
_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0)


@dataclass(frozen=True, slots=True)
class Sent:
    """A piece that was sent. `taken`: how many of its shards some follower took."""

    root: bytes
    shards: Sequence[Shard]
    taken: int


class Sender:
    """To the followers at `urls`, which know `secret`. `close` it.

    What a follower does not take goes to the next one; a shard that nobody takes is one of those that may be lost.
    """

    def __init__(
        self,
        store: Store,
        urls: Sequence[str],
        secret: str,
        *,
        data_shards: int = DATA_SHARDS,
        parity_shards: int = PARITY_SHARDS,
    ) -> None:
        self._store = store
        self.followers = [ShardClient(url, secret) for url in urls]
        self.data_shards = data_shards
        self._parity = parity_shards
        self._number = -1
        self._told: set[str] = set()

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await asyncio.gather(*(one.close() for one in self.followers))

    @property
    def sent_bytes(self) -> int:
        """Bytes of shards that were sent, from here."""
        return sum(one.sent_bytes for one in self.followers)

    async def send(
        self, piece: bytes, *, file: str = OBJECTS, offset: int = 0, total: int = 0, digest: str = ""
    ) -> Sent:
        """Send one piece. `file` and what follows: see Manifest.

        Errors: StoreError (the store, the library), ValueError (the piece is empty or too large).
        """
        shards = await asyncio.to_thread(cut, piece, self.data_shards, self._parity)
        root, found = await asyncio.to_thread(proven, shards)
        if self._number < 0:
            named = [one.number for one in await load_manifests(self._store) if one.file == OBJECTS]
            # several may send files at once, and begin at different places of the ring
            self._number = secrets.randbelow(1 << 32) if file else max(named, default=-1)
        self._number += 1
        manifest = Manifest(root, len(piece), self.data_shards, self._parity, self._number)
        await save_manifest(self._store, replace(manifest, file=file, offset=offset, total=total, digest=digest))
        taken = await asyncio.gather(*(self._place(root, shard) for shard in found))
        return Sent(root, found, sum(taken))

    async def complete(self, sent: Sent, follower: ShardClient) -> None:
        """Wait until a follower has put a piece together; what its peers did not pass on to it is sent to it.

        Errors: StoreUnavailable (it cannot be reached, or does not get there).
        """
        # none that a follower can have: at the first look its peers may not have passed anything on yet
        held: set[int] | None = {-1}
        for pause in _PAUSES:
            before, held = held, await follower.held(sent.root)
            if held is None:
                return
            if held != before:
                # still arriving
                await asyncio.sleep(pause)
                continue
            lacking = [shard for shard in sent.shards if shard.index not in held]
            # a piece that was not put together in spite of all its shards is tried again when one comes
            for shard in lacking[: max(1, self.data_shards - len(held))] or sent.shards[:1]:
                if await follower.send(sent.root, shard.index, encode_shard(shard), relay=False):
                    return
            await asyncio.sleep(pause)
        raise StoreUnavailable(f"{follower.name} did not put a piece together")

    async def _place(self, root: bytes, shard: Shard) -> bool:
        """Give a shard to the follower whose turn it is, or to the next that takes it."""
        body = encode_shard(shard)
        for turn in range(len(self.followers)):
            follower = self.followers[(shard.index + turn) % len(self.followers)]
            try:
                await follower.send(root, shard.index, body, relay=True)
            except StoreUnavailable as error:
                if follower.name not in self._told:
                    self._told.add(follower.name)
                    log.warning("a follower takes no shards (%s): others get them", error)
                continue
            if follower.name in self._told:
                self._told.discard(follower.name)
                log.info("%s takes shards again", follower.name)
            return True
        return False
