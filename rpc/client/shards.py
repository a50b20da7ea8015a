"""Sending a shard to a follower: `POST /shards/{root}/{index}`, for those who know the followers' secret.

The body: the number of hashes of the proof (1 byte), the hashes, the shard. The answer is 200: `enough` (the piece is
put together there, or needs no more) or `taken`. `GET /shards/{root}` says which shards are there, or `enough`.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from blockstore.errors import BadCid, StoreUnavailable
from blockstore.shards.manifest import Shard
from blockstore.shards.merkle import HASH_BYTES
from rpc.client.follower_http import FollowerHttp, read_at_most

PATH: Final = "/shards/"
#: "1": the follower that gets the shard is to pass it on to its peers
RELAY: Final = "X-Shard-Relay"
ENOUGH: Final = "enough"
TAKEN: Final = "taken"
#: hashes of a proof, at most: the tree's depth
MOST_HASHES: Final = 8

_SECONDS: Final = 20.0
_AT_ONCE: Final = 8
#: bytes of an answer that are read
_MOST_SAID: Final = 4096


def encode_shard(shard: Shard) -> bytes:
    """The body of a request."""
    return b"".join((bytes((len(shard.proof),)), *shard.proof, shard.data))


def decode_shard(index: int, body: bytes) -> Shard:
    """Errors: BadCid, for a body that holds no shard."""
    count = body[0] if body else MOST_HASHES + 1
    start = 1 + count * HASH_BYTES
    if count > MOST_HASHES or len(body) <= start:
        raise BadCid("not a shard: the number of hashes, the hashes, the shard")
    proof = tuple(body[at : at + HASH_BYTES] for at in range(1, start, HASH_BYTES))
    return Shard(index, body[start:], proof)


class ShardClient:
    """One follower that shards are sent to. `url`: http://HOST:PORT. `close` it."""

    def __init__(self, url: str, secret: str) -> None:
        self.name = url
        self._http = FollowerHttp(url, secret, connections=_AT_ONCE, seconds=_SECONDS)
        self._places = asyncio.Semaphore(_AT_ONCE)
        #: bytes of shards sent, and requests that failed
        self.sent_bytes = self.failures = 0

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await self._http.close()

    async def send(self, root: bytes, index: int, body: bytes, *, relay: bool) -> bool:
        """Send a shard, as `encode_shard` gives it; whether the follower needs no more of this piece.

        Errors: StoreUnavailable (it cannot be reached, or refuses).
        """
        self.sent_bytes += len(body)
        headers = {RELAY: "1"} if relay else {}
        return await self._ask("POST", f"{root.hex()}/{index}", body, headers) == ENOUGH.encode()

    async def held(self, root: bytes) -> set[int] | None:
        """The shards of a piece that the follower has; None where it needs no more. Errors: StoreUnavailable."""
        told = await self._ask("GET", root.hex(), None, {})
        if told == ENOUGH.encode():
            return None
        try:
            return {int(one) for one in told.split()}
        except ValueError:
            raise StoreUnavailable(f"{self.name} does not answer what it has of a piece") from None

    async def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        try:
            async with self._places, self._http.request(method, PATH + path, data=body, headers=headers) as answer:
                said = await read_at_most(answer.content, _MOST_SAID)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.failures += 1
            raise StoreUnavailable(f"{self.name} cannot be reached: {type(error).__name__}") from None
        if answer.status != 200:
            self.failures += 1
            text = said.decode("utf-8", "replace").strip()[:_MOST_SAID]
            raise StoreUnavailable(f"{self.name} answered HTTP {answer.status}: {text}")
        return said
