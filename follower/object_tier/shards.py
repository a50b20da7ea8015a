"""Shards that a bridge and peers send: taken, passed on, put together, and used.

A piece is the objects of a head, which go to this machine's disk before anybody asks for them, or a segment of a file.
What comes is used only where its root stands in the store, and each object only with its own hash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from aiohttp.web_request import BaseRequest
from cachetools import TTLCache

from blockstore.errors import BadCar, BadCid, StoreError
from blockstore.shards.inbox import Inbox, Outcome
from blockstore.shards.manifest import OBJECTS, Manifest, Shard, load_manifests
from blockstore.shards.merkle import HASH_BYTES
from blockstore.shards.objects import unpack
from blockstore.store import Store
from blockstore.tier.objects import TieredObjects
from follower.object_tier.files import ReceivedFiles
from rpc.client.shards import ENOUGH, MOST_HASHES, PATH, RELAY, TAKEN, ShardClient, decode_shard, encode_shard
from rpc.server.auth import sends
from rpc.server.server import Server

log = logging.getLogger(__name__)

#: bytes of shards that wait to be passed on; more are not passed on by this process
_RELAY_BYTES: Final = 64 << 20
#: seconds for which a root that the store does not name is not looked up again
_UNKNOWN_SECONDS: Final = 1.0


class ShardReceiver:
    """Answers `/shards/…`. `tier`: where objects go; `files`: where files go (None: none are taken). `close` it."""

    def __init__(
        self,
        store: Store,
        inbox: Inbox,
        tier: TieredObjects,
        secret: str,
        peers: Sequence[str],
        files: ReceivedFiles | None = None,
    ) -> None:
        self._store = store
        self._inbox = inbox
        self._tier = tier
        self._secret = f"Bearer {secret}".encode()
        self._peers = [ShardClient(url, secret) for url in peers]
        self._files = files
        self._manifests: dict[bytes, Manifest] = {}
        self._unknown: TTLCache[bytes, bool] = TTLCache(256, _UNKNOWN_SECONDS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._relaying = 0
        #: by Outcome; pieces put together; objects of them; shards that were not passed on for want of room
        self.shards: dict[str, float] = {one.value: 0 for one in Outcome}
        self.pieces = self.objects = self.not_relayed = 0

    async def close(self) -> None:
        """Stop passing on. A second call does nothing."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers:
            await peer.close()
        self._inbox.close()

    @property
    def relayed_bytes(self) -> int:
        """Bytes of shards that were passed on by this process."""
        return sum(one.sent_bytes for one in self._peers)

    def serve_on(self, server: Server) -> None:
        """Answer from now on."""

        async def pages(request: BaseRequest) -> web.StreamResponse | None:
            return await self.answer(request) if request.path.startswith(PATH) else None

        server.add_pages(pages)

    async def answer(self, request: BaseRequest) -> web.Response:
        """401 without the secret, 404 for a piece that the store does not name, 413 for more than a shard has, 422 for
        one that is not proven, 503 while the store or the disk cannot be used.
        """
        if not sends(request, self._secret):
            return _refusal(401, "the followers' secret is needed")
        root_text, _, index_text = request.path[len(PATH) :].partition("/")
        try:
            root = bytes.fromhex(root_text)
            if len(root) != HASH_BYTES:
                raise ValueError("not a root")
            index = int(index_text) if index_text else None
        except ValueError:
            return _refusal(400, f"the path is {PATH}ROOT/INDEX: 64 hexadecimal digits and a number")
        if request.method != ("GET" if index is None else "POST"):
            return web.Response(status=405)
        try:
            manifest = await self._manifest(root)
            if manifest is None:
                return _refusal(404, "the store does not name this piece, or names it no more")
            if index is None:
                return await self._told(manifest)
            return await self._take(request, manifest, index)
        except BadCid as error:
            return _refusal(400, str(error))
        except (StoreError, OSError) as error:
            log.warning("a shard cannot be taken: %s", error)
            return _refusal(503, "the shard cannot be taken now")

    async def _told(self, manifest: Manifest) -> web.Response:
        if await asyncio.to_thread(self._inbox.is_done, manifest):
            return web.Response(text=ENOUGH)
        held = await asyncio.to_thread(self._inbox.held, manifest)
        return web.Response(text=" ".join(str(one) for one in sorted(held)))

    async def _take(self, request: BaseRequest, manifest: Manifest, index: int) -> web.Response:
        if manifest.file and self._files is None:
            return _refusal(403, "no files are taken here: the setting received_files_dir is empty")
        if await asyncio.to_thread(self._inbox.is_done, manifest):
            self.shards[Outcome.ENOUGH.value] += 1
            return web.Response(text=ENOUGH)
        most = 1 + MOST_HASHES * HASH_BYTES + manifest.most_shard_bytes
        body = bytearray()
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > most:
                answer = _refusal(413, f"a shard of this piece has {most} bytes at most")
                answer.force_close()
                return answer
        shard = decode_shard(index, bytes(body))
        outcome = await asyncio.to_thread(self._inbox.add, manifest, shard)
        self.shards[outcome.value] += 1
        if outcome is Outcome.REFUSED:
            log.warning("a shard was refused: its proof does not lead to the root that the store names")
            return _refusal(422, "the shard is not proven")
        if outcome is Outcome.NEW and request.headers.get(RELAY) == "1":
            self._relay(manifest, shard)
        if outcome is not Outcome.ENOUGH:
            await self._use(manifest)
        done = await asyncio.to_thread(self._inbox.is_done, manifest)
        return web.Response(text=ENOUGH if done else TAKEN)

    async def _manifest(self, root: bytes) -> Manifest | None:
        found = self._manifests.get(root)
        if found is None and root not in self._unknown:
            # the ring as a whole: what it names no more is forgotten here too
            self._manifests = {one.root: one for one in await load_manifests(self._store)}
            found = self._manifests.get(root)
            if found is None:
                self._unknown[root] = True
        return found

    # --- passing on ----------------------------------------------------------------------------------

    def _relay(self, manifest: Manifest, shard: Shard) -> None:
        if self._relaying + len(shard.data) > _RELAY_BYTES:
            self.not_relayed += 1
            return
        task = asyncio.get_running_loop().create_task(self._pass_on(manifest, shard))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, manifest: Manifest, shard: Shard) -> None:
        """Give a shard to every peer. One that does not take it is helped by others, or reads from the store."""
        body = encode_shard(shard)
        self._relaying += len(shard.data)
        try:
            await asyncio.gather(
                *(peer.send(manifest.root, shard.index, body, relay=False) for peer in self._peers),
                return_exceptions=True,
            )
        finally:
            self._relaying -= len(shard.data)

    # --- using ---------------------------------------------------------------------------------------

    async def _use(self, manifest: Manifest) -> None:
        """Put a piece together and use it, if it is there and nobody else does. Errors: StoreError, OSError."""
        piece = await asyncio.to_thread(self._inbox.take, manifest)
        if piece is None:
            return
        used = False
        try:
            if manifest.file == OBJECTS:
                try:
                    objects = await asyncio.to_thread(lambda: list(unpack(piece)))
                except BadCar as error:
                    # whoever wrote the root wrote this: it is not asked for again
                    log.error("a dispersed piece holds bad objects (%s): nothing of it is used", error)
                    used = True
                    return
                self.objects += await self._tier.keep(objects)
            else:
                assert self._files is not None
                await asyncio.to_thread(self._files.write, manifest, piece)
            self.pieces += 1
            used = True
        finally:
            await asyncio.to_thread(self._inbox.finish, manifest, used=used)


def _refusal(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={"X-Content-Type-Options": "nosniff"})
