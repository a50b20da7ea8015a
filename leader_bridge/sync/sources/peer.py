"""Another store's follower as a source: `/range`, `/obj` and `/shard-files`, over one connection that stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import aiohttp

from blockstore.errors import HashMismatch
from blockstore.shards.erasure import BadShards
from blockstore.shards.folder import parse_shard
from leader_bridge.sync.sources.source import (
    Answer,
    BadSource,
    LyingSource,
    NotHeldThere,
    ObjectWork,
    ShardListWork,
    ShardWork,
    SourceBusy,
    SourceRefuses,
    SourceUnavailable,
    Work,
)
from rpc.client.follower_http import FollowerHttp, read_at_most
from rpc.server.ranges.wire import (
    HARD_BYTES,
    MOST_OBJECTS,
    NOT_HELD,
    OBJECTS,
    RANGE,
    SHARD_FILES,
    BadWire,
    KeptShard,
    Offer,
    encode_multihashes,
    read_car,
    read_kept,
    read_numbers,
    read_offer,
)

#: the longest body: the objects of an answer, and what frames them
_MOST_BYTES: Final = HARD_BYTES + (1 << 20)
_LONGEST_WAIT: Final = 3600.0


def peer_name(url: str) -> str:
    """The name of a follower as a source: host and port."""
    return url.rstrip("/").partition("://")[2].rpartition("@")[2]


class PeerSource:
    """A follower at `url`, `http(s)://host:port`. `token`: who we are there."""

    votes = True
    most_objects = MOST_OBJECTS

    def __init__(self, url: str, token: str) -> None:
        self.name = peer_name(url)
        self.requests_per_second = 10
        # how long an answer may take is the caller's to say
        self._http = FollowerHttp(url, token, connections=1)

    async def close(self) -> None:
        """Close the connection. A second call does nothing."""
        await self._http.close()

    async def offer(self) -> Offer:
        """As `SyncSource.offer`."""
        try:
            found = read_offer((await self._send("GET", RANGE))[0])
        except BadWire as error:
            raise BadSource(f"{self.name}: {error}") from None
        self.requests_per_second = found.requests_per_second
        return found

    async def ask(self, work: Work) -> Answer:
        """As `SyncSource.ask`."""
        try:
            if isinstance(work, ObjectWork):
                body = encode_multihashes(cid.multihash for cid in work.cids)
                data, absent = await self._send("POST", OBJECTS, body=body)
                found = read_car(data)
                by_hash = {cid.multihash: raw for cid, raw in found.items()}
                # under the codec that was asked for: a multihash does not tell
                wanted = {cid: by_hash[cid.multihash] for cid in work.cids if cid.multihash in by_hash}
                return Answer(wanted, frozenset(work.cids[at] for at in read_numbers(absent)), size=len(data))
            if isinstance(work, ShardListWork):
                data, _ = await self._send("GET", SHARD_FILES, query={"after": work.after})
                return Answer(size=len(data), kept=read_kept(data))
            if isinstance(work, ShardWork):
                return await self._shard(work.shard)
            query = {
                "head": work.head.hex(),
                "low": str(work.low),
                "high": str(work.high),
                "parts": ",".join(sorted(work.parts)),
            }
            data, absent = await self._send("GET", RANGE, query=query)
            return Answer(read_car(data), absent_epochs=frozenset(read_numbers(absent)), size=len(data))
        except HashMismatch as error:
            raise LyingSource(f"{self.name} sent bytes that do not have their hash: {error}") from None
        except (BadWire, IndexError) as error:
            raise BadSource(f"{self.name}: {error}") from None

    async def _shard(self, wanted: KeptShard) -> Answer:
        """Errors: as of `_send`, LyingSource."""
        data, _ = await self._send("GET", f"{SHARD_FILES}/{quote(wanted.name)}")
        try:
            manifest, shard = await asyncio.to_thread(parse_shard, data)
        except BadShards as error:
            raise LyingSource(f"{self.name} sent a shard that is none: {error}") from None
        if (manifest, shard.index) != (wanted.manifest, wanted.index):
            raise LyingSource(f"{self.name} sent another shard than it names")
        return Answer(size=len(data), shard=shard)

    async def _send(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[bytes, str]:
        """(body, what is not held) of an answer."""
        try:
            async with self._http.request(method, path, params=query, data=body) as response:
                match response.status:
                    case 200:
                        return await self._read(response), response.headers.get(NOT_HELD, "")
                    case 404:
                        raise NotHeldThere(f"{self.name} does not hold it")
                    case 401 | 403:
                        raise SourceRefuses(f"{self.name} does not take the token (HTTP {response.status})")
                    case 429 | 503:
                        raise SourceBusy(f"{self.name} asks to wait", _wait_seconds(response.headers))
                    case 413:
                        raise NotHeldThere(f"{self.name} does not give so much at once")
                    case 400 | 405:
                        raise BadSource(f"{self.name} does not understand (HTTP {response.status})")
                    case status:
                        raise SourceUnavailable(f"{self.name} answered HTTP {status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceUnavailable(f"{self.name} cannot be asked: {type(error).__name__}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = await read_at_most(response.content, _MOST_BYTES)
        if len(data) > _MOST_BYTES:
            raise BadSource(f"{self.name} sent more than {_MOST_BYTES} bytes")
        return data


def _wait_seconds(headers: Mapping[str, str]) -> float:
    """What `Retry-After` says, as finely as the follower tells it; 1 where it cannot be read."""
    for name, unit in (("X-Retry-After-Ms", 1000.0), ("Retry-After", 1.0)):
        try:
            return min(_LONGEST_WAIT, max(0.0, float(headers.get(name, "")) / unit))
        except ValueError:
            continue
    return 1.0
