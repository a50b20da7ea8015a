"""Pieces on their way through real followers' servers: who gets what, what it costs the sender, what goes wrong."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest

from blockstore.memory import MemoryStore
from blockstore.shards.erasure import cut
from blockstore.shards.manifest import Manifest, proven, save_manifest
from blockstore.shards.objects import pack
from leader_bridge.dispersal.files import send_file
from leader_bridge.dispersal.sender import Sender
from rpc.client.shards import PATH, ShardClient, encode_shard
from tests.shards.region import SECRET, objects_of, region, sending, until
from tests.support.proxies import free_port

AUTH = {"Authorization": f"Bearer {SECRET}"}


async def test_eight_followers_get_it_for_little_more_than_one_copy(tmp_path: Path) -> None:
    store = MemoryStore("z")
    objects = objects_of(400)
    piece = pack(objects)
    async with region(store, tmp_path, 8) as followers, sending(store, [one.url for one in followers]) as sender:
        sent = await sender.send(piece)
        assert sent.taken == 20
        await until(lambda: all(one.receiver.pieces for one in followers))
        assert sender.sent_bytes <= 8 * len(piece) / 5
        for one in followers:
            assert one.receiver.objects == 400
            # nobody has asked for them, and no store was read
            assert all(one.has(cid) for cid, _ in objects)
            assert one.tier.fetched == 0
        # each passed on only what it was given by the sender
        assert sum(one.receiver.relayed_bytes for one in followers) <= 7 * sender.sent_bytes


@pytest.mark.parametrize("gone", [1, 3])
async def test_followers_that_are_gone_cost_the_others_nothing(gone: int, tmp_path: Path) -> None:
    store = MemoryStore("z")
    objects = objects_of(50)
    async with region(store, tmp_path, 4) as followers:
        urls = [one.url for one in followers]
        for number in range(gone):
            urls[number] = f"http://127.0.0.1:{free_port()}"
        async with sending(store, urls) as sender:
            assert (await sender.send(pack(objects))).taken == 20
            await until(lambda: all(one.receiver.pieces for one in followers[gone:]))
            assert all(one.has(cid) for one in followers[gone:] for cid, _ in objects)


async def test_a_flipped_byte_is_refused_and_the_rest_go_on(tmp_path: Path) -> None:
    store = MemoryStore("z")
    objects = objects_of(50)
    piece = pack(objects)
    root, shards = proven(cut(piece))
    await save_manifest(store, Manifest(root, len(piece), 16, 4, 0))
    async with region(store, tmp_path, 2) as followers, aiohttp.ClientSession(headers=AUTH) as session:
        first = followers[0]

        async def post(index: int | str, body: bytes, which: bytes = root, **headers: str) -> int:
            url = f"{first.url}{PATH}{which.hex()}/{index}"
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        body = encode_shard(shards[0])
        for at in (-1, 1, 40, len(body) - 90):
            assert await post(0, body[:at] + bytes([body[at] ^ 1]) + (body[at + 1 :] if at != -1 else b"")) == 422
        assert await post(1, body) == 422
        assert await post(20, body) == 422
        assert await post("x", body) == 400
        assert await post(0, b"") == 400
        assert await post(0, b"\xff" + body) == 400
        assert await post(0, body + bytes(3000)) in (413, 422)
        assert await post(0, bytes(1 << 20)) == 413
        # a piece that the store does not name
        assert await post(0, body, which=bytes(32)) == 404
        assert await post(0, body, Authorization="Bearer another secret of it") == 401
        async with session.get(f"{first.url}{PATH}{root.hex()}/0") as answer:
            assert answer.status == 405
        assert first.receiver.shards["new"] == 0
        for shard in shards[:16]:
            assert await post(shard.index, encode_shard(shard)) == 200
        assert first.receiver.pieces == 1
        assert all(first.has(cid) for cid, _ in objects)
        # nothing was passed on: nobody asked for it
        assert followers[1].receiver.shards["new"] == 0


async def test_a_piece_with_objects_that_have_another_hash_is_not_used(tmp_path: Path) -> None:
    """Even who may write to the store gives followers no object that is not its CID's."""
    store = MemoryStore("z")
    good, other = objects_of(2)
    piece = pack([good, (other[0], b"\x41\x00")])
    async with region(store, tmp_path, 2) as followers:
        async with sending(store, [one.url for one in followers]) as sender:
            await sender.send(piece)
            client = ShardClient(followers[0].url, SECRET)
            root, _ = proven(cut(piece))

        async def done() -> bool:
            return await client.held(root) is None

        async with asyncio.timeout(60):
            while not await done():
                await asyncio.sleep(0.01)
        assert followers[0].receiver.objects == 0
        assert not followers[0].has(good[0])
        await client.close()
        await sender.close()


async def test_a_file_arrives_whole_at_each(tmp_path: Path) -> None:
    store = MemoryStore("z")
    content = random.Random(3).randbytes(1_000_001)
    file = tmp_path / "snapshot.car.zst"
    file.write_bytes(content)
    seen = []
    async with region(store, tmp_path, 4) as followers, sending(store, [one.url for one in followers]) as sender:
        delivery = await send_file(
            sender, file, segment_bytes=300_000, progress=lambda done, total: seen.append((done, total))
        )
        assert not delivery.failed
        assert seen == [(done, 1_000_001) for done in (300_000, 600_000, 900_000, 1_000_001)]
        for one in followers:
            assert (one.folder / "files" / file.name).read_bytes() == content
            assert [found.name for found in (one.folder / "files").iterdir()] == [file.name]
        assert sender.sent_bytes <= 4 * len(content) / 2.9
        # a newer one of the same name takes its place
        file.write_bytes(content[::-1])
        assert not (await send_file(sender, file, segment_bytes=400_000)).failed
        assert all((one.folder / "files" / file.name).read_bytes() == content[::-1] for one in followers)


async def test_a_file_reaches_followers_that_do_not_know_each_other(tmp_path: Path) -> None:
    """What peers do not pass on, the sender gives in the end."""
    store = MemoryStore("z")
    file = tmp_path / "file"
    file.write_bytes(random.Random(4).randbytes(200_000))
    async with region(store, tmp_path / "a", 1) as one, region(store, tmp_path / "b", 1) as other:
        urls = [one[0].url, other[0].url, f"http://127.0.0.1:{free_port()}"]
        async with sending(store, urls) as sender:
            delivery = await send_file(sender, file, segment_bytes=100_000)
            assert list(delivery.failed) == [sender.followers[2].name]
            for follower in (*one, *other):
                assert (follower.folder / "files" / "file").read_bytes() == file.read_bytes()


async def test_files_are_refused_where_none_are_wanted(tmp_path: Path) -> None:
    store = MemoryStore("z")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    async with (
        region(store, tmp_path, 2, files=False) as followers,
        sending(store, [one.url for one in followers]) as sender,
    ):
        delivery = await send_file(sender, file)
        assert all("did not put" in reason or "no files are taken" in reason for reason in delivery.failed.values())
        assert len(delivery.failed) == 2
    for name, content in (("empty", b""), (".hidden", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"empty|no name"):
            await send_file(Sender(store, [], SECRET), tmp_path / name)
