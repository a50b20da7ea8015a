"""Objects between followers, over real sockets: who gets them, who does not, and what a peer cannot do."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from blockstore.cid import cid_of, multihash_of
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.tier.disk import LEAST_BYTES, DiskTier
from blockstore.tier.objects import StoreSource, TieredObjects
from blockstore.tier.sources import RankedSources
from chain.ipld.objects import Objects
from follower.object_tier.open import OFF, open_object_tier, read_secret, serve_peers
from follower.object_tier.peers import PeerObjects, PeerSource
from follower.settings import CannotRun, load_settings
from rpc.server.server import Server, serve
from tests.support.made_chain import MadeChain
from tests.tier.test_objects import SlowStore, filled

SECRET = "a secret of some length"


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A server over a made chain, whose objects are its own."""
    made = MadeChain()
    made.log.publish([], [await made.add(None, 0)])
    server = await serve(made.services(), "127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def peer(near: dict[bytes, bytes], secret: str = SECRET) -> AsyncIterator[tuple[str, PeerObjects]]:
    async with serving() as server:
        given = PeerObjects(near.get, secret)
        given.serve_on(server)
        yield f"http://127.0.0.1:{server.port}", given


async def status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        await response.read()
        return response.status


async def test_objects_that_are_near_go_to_those_who_know_the_secret() -> None:
    data = b"\x82\x01\x02"
    cid = cid_of(data)
    async with peer({cid.multihash: data}) as (url, given):
        allowed = {"Authorization": f"Bearer {SECRET}"}
        assert await status(f"{url}/obj/{cid}", **allowed) == 200
        assert await status(f"{url}/obj/{cid_of(b'other')}", **allowed) == 404
        assert await status(f"{url}/obj/nothing", **allowed) == 400
        assert await status(f"{url}/obj/{cid}") == 401
        assert await status(f"{url}/obj/{cid}", Authorization="Bearer other") == 401
        assert (given.given, given.lacking) == (1, 1)
        # the rest of the server is as it was
        assert await status(f"{url}/health/livez") == 200
        assert await status(f"{url}/other") == 404
        source = PeerSource(url, SECRET)
        assert await source.read([cid.multihash, multihash_of(b"x")]) == [data, None]
        await source.probe()
        await source.close()


async def test_it_is_off_unless_a_secret_is_set(tmp_path: Path) -> None:
    async with serving() as server:
        settings = load_settings(environment={}, flags={})
        objects = Objects(MemoryStore("x"))
        assert serve_peers(settings, server, objects, None) is None
        assert await status(f"http://127.0.0.1:{server.port}/obj/{cid_of(b'x')}") == 404
        path = tmp_path / "secret"
        for text in ("short", "täglich ein neues Geheimnis", ""):
            path.write_text(text)
            with pytest.raises(CannotRun, match="not 16 printable"):
                read_secret(load_settings(environment={}, flags={"object_peer_secret_file": str(path)}))
        with pytest.raises(CannotRun, match="No such file"):
            read_secret(load_settings(environment={}, flags={"object_peer_secret_file": "/nowhere"}))
        with pytest.raises(CannotRun, match="object_peers needs"):
            await open_object_tier(
                load_settings(environment={}, flags={"object_peers": "http://a:1"}), MemoryStore("y")
            )


async def test_what_a_peer_sends_is_verified() -> None:
    key = multihash_of(b"right")
    async with peer({key: b"wrong"}) as (url, _):
        source = PeerSource(url, SECRET)
        (found,) = await source.read([key])
        assert isinstance(found, StoreError)
        assert "answered other bytes" in str(found)
        await source.close()


async def test_a_peer_that_is_gone_or_refuses_is_passed_over() -> None:
    store = SlowStore(0)
    keys = await filled(store, 20)
    near = {key: await MemoryStore.get(store, key) or b"" for key in keys[:10]}
    async with peer(near) as (url, _):
        lying = PeerSource(url, "not the secret of this one")
        gone = PeerSource("http://127.0.0.1:1", SECRET)
        sources = RankedSources[bytes]([lying, gone, StoreSource(store, "store")])
        tier = TieredObjects(store, sources)
        assert None not in await tier.get_many(keys)
        assert [one.failures > 0 for one in sources.standings] == [True, True, False]
        asked = [one.requests for one in sources.standings]
        assert None not in await tier.get_many(keys)
        assert [one.requests for one in sources.standings][:2] == asked[:2]
        await tier.close()
        for one in (lying, gone):
            await one.close()


async def test_a_follower_reads_from_a_peer_that_is_nearer_than_the_store(tmp_path: Path) -> None:
    store = SlowStore(0.2)
    keys = await filled(store, 50)
    near = {key: await MemoryStore.get(store, key) or b"" for key in keys}
    async with peer(near) as (url, given):
        source = PeerSource(url, SECRET)
        sources = RankedSources[bytes]([StoreSource(store, "store"), source])
        await sources.probe_all()
        tier = TieredObjects(store, sources, disk=DiskTier(tmp_path, LEAST_BYTES))
        store.read.clear()
        found = await tier.get_many(keys)
        assert found == [near[key] for key in keys]
        assert store.read == []
        assert given.given == 50
        await tier.close()
        await source.close()


async def test_a_slow_server_and_second_requests() -> None:
    """As on the clock that jumps, with sockets: one answer in twenty takes long, and another server is asked."""
    data = b"\x81\x05"
    numbers = itertools.count(1)
    cid = cid_of(data)

    async def answer(request: web.BaseRequest) -> web.Response:
        slow = request.url.port == ports[0] and next(numbers) % 20 == 0
        # long enough that a busy machine is not taken for it
        await asyncio.sleep(1.0 if slow else 0.002)
        return web.Response(body=data)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    sites = [web.TCPSite(runner, "127.0.0.1", 0) for _ in range(2)]
    for site in sites:
        await site.start()
    ports = [address[1] for address in runner.addresses]
    peers = [PeerSource(f"http://127.0.0.1:{port}", SECRET) for port in ports]
    loop = asyncio.get_running_loop()
    times: dict[str, list[float]] = {}
    for name, asked in (("alone", peers[:1]), ("both", peers)):
        sources = RankedSources[bytes](asked)
        await sources.probe_all()
        taken = times[name] = []
        for _ in range(80):
            began = loop.time()
            assert await sources.read([cid.multihash]) == [data]
            taken.append(loop.time() - began)
    waited = {name: sum(one >= 1.0 for one in taken) for name, taken in times.items()}
    assert waited["alone"] >= 3
    assert waited["both"] <= waited["alone"] / 2, waited
    for one in peers:
        await one.close()
    await runner.cleanup()


async def test_over_lmdb_there_is_no_tier_unless_it_is_asked_for(tmp_path: Path) -> None:
    store = MemoryStore("z")
    lmdb = {"store": f"lmdb://{tmp_path}/store"}
    assert await open_object_tier(load_settings(environment={}, flags=lmdb), store) is None
    asked = load_settings(environment={}, flags={**lmdb, "object_tier_dir": str(tmp_path / "tier")})
    tier = await open_object_tier(asked, store)
    assert tier is not None and tier.disk is not None
    await tier.close()
    shared = {"store": "cassandra://127.0.0.1:1/keyspace"}
    tier = await open_object_tier(load_settings(environment={}, flags={**shared, "object_tier_dir": OFF}), store)
    # reads are joined there in any case
    assert tier is not None and tier.disk is None
    await tier.close()


async def test_a_tier_without_claims_leaves_no_file_open(tmp_path: Path) -> None:
    folder = tmp_path / "tier"
    (folder / "objects.claims").mkdir(parents=True)
    asked = {"store": "cassandra://db/keys", "object_tier_dir": str(folder)}
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await open_object_tier(load_settings(environment={}, flags=asked), MemoryStore())
    opened = [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    assert [one for one in opened if one.startswith(str(folder))] == []
