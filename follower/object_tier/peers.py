"""Objects between followers: `GET /obj/{cid}`, for those who know the secret, of what is near; and peers as sources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.cid import Cid, parse
from blockstore.errors import BadCid, StoreError, StoreUnavailable
from blockstore.tier.objects import verified
from blockstore.tier.sources import PROBED, Outcome
from rpc.client.follower_http import FollowerHttp, read_at_most
from rpc.server.auth import sends
from rpc.server.server import Server

PATH: Final = "/obj/"
#: multihash -> bytes of what is in memory or on the local disk
Near = Callable[[bytes], bytes | None]

#: requests to one peer at once, seconds that one may take, and the largest object that is read
_AT_ONCE: Final = 32
_SECONDS: Final = 5.0
_MOST_BYTES: Final = 4 << 20
#: a CID is of this codec where only its multihash is known: answers do not depend on it
_DAG_CBOR: Final = b"\x01\x71"
#: what a CID names never changes
_HEADERS: Final = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


class PeerObjects:
    """Answers `/obj/{cid}` from what is near. Never reads the store: a peer can do that itself."""

    def __init__(self, near: Near, secret: str) -> None:
        self._near = near
        self._secret = f"Bearer {secret}".encode()
        #: objects given, and requests for what is not near
        self.given = self.lacking = 0

    def serve_on(self, server: Server) -> None:
        """Answer from now on."""

        async def pages(request: BaseRequest) -> web.StreamResponse | None:
            return self.answer(request) if request.path.startswith(PATH) else None

        server.add_pages(pages)

    def answer(self, request: BaseRequest) -> web.Response:
        """The object, 401 without the secret, 400 for what is no CID, 404 for what is not near."""
        if not sends(request, self._secret):
            return web.Response(status=401)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        try:
            multihash = parse(request.path[len(PATH) :]).multihash
        except BadCid as error:
            return web.Response(status=400, text=f"{error}\n")
        data = self._near(multihash)
        if data is None:
            self.lacking += 1
            return web.Response(status=404)
        self.given += 1
        return web.Response(body=data, content_type="application/octet-stream", headers=_HEADERS)


class PeerSource:
    """Another follower as a source. `url`: http://host:port. `close` it."""

    def __init__(self, url: str, secret: str) -> None:
        self.name = url
        #: its connections
        self.http = FollowerHttp(url, secret, connections=_AT_ONCE)

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await self.http.close()

    async def read(self, keys: Sequence[bytes]) -> Sequence[Outcome]:
        """See Source."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(multihash: bytes) -> Outcome:
            async with places:
                try:
                    return await self._get(multihash)
                except StoreError as error:
                    return error

        return await asyncio.gather(*(one(multihash) for multihash in keys))

    async def probe(self) -> None:
        """See Source."""
        await self._get(PROBED.multihash)

    async def _get(self, multihash: bytes) -> Outcome:
        """The object, None where the peer has it not near. Errors: StoreUnavailable."""
        try:
            async with asyncio.timeout(_SECONDS):
                async with self.http.request("GET", f"{PATH}{Cid(_DAG_CBOR + multihash)}") as response:
                    if response.status == 404:
                        return None
                    if response.status != 200:
                        raise StoreUnavailable(f"{self.name} answered HTTP {response.status}")
                    data = await read_at_most(response.content, _MOST_BYTES)
        except TimeoutError:
            raise StoreUnavailable(f"{self.name} did not answer in {_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(f"{self.name} cannot be asked: {type(error).__name__}") from None
        if len(data) > _MOST_BYTES:
            raise StoreUnavailable(f"{self.name} sent more than {_MOST_BYTES} bytes")
        return verified(multihash, data, self.name)
