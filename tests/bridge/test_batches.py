"""How many objects a node is asked for at once: fewer where it fails, more again where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from aiohttp import web

from blockstore.cid import Cid
from leader_bridge.nodes.sources import NoSource, Sources
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from tests.support.bridge.world import World


async def fetch(sources: Sources, cids: Sequence[Cid], times: int) -> None:
    for _ in range(times):
        assert len((await sources.fetch(cids)).found) == len(cids)


def some_objects(world: World, count: int) -> list[Cid]:
    found = [block.cid for tipset in world.tips for block in tipset.blocks]
    found += [block.messages for tipset in world.tips for block in tipset.blocks]
    return list(dict.fromkeys(found))[:count]


async def test_a_bad_moment_does_not_make_batches_small_for_ever() -> None:
    world = World()
    node = await world.node()
    sources = Sources([NodeClient(parse_node_info(node.url)[0])], batch=8)
    source = sources.all[0]
    cids = some_objects(world, 8)
    assert len(cids) == 8
    node.faults.batches = 0
    await fetch(sources, cids, 1)
    assert source.batch == 1
    node.faults.batches = 100
    # eight requests a fetch, then four, then two: it grows with every sixteenth
    await fetch(sources, cids, 20)
    assert source.batch == 8
    await sources.close()
    await node.stop()


async def test_a_limit_of_the_node_is_tried_less_and_less() -> None:
    world = World()
    node = await world.node()
    sources = Sources([NodeClient(parse_node_info(node.url)[0])], batch=8)
    cids = some_objects(world, 8)
    node.faults.batches = 4
    await fetch(sources, cids, 200)
    # without trying: two requests for each; a batch that is too large was tried a few times
    assert 400 < node.requests <= 400 + 8
    assert sources.all[0].batch in (4, 8)
    await sources.close()
    await node.stop()


@pytest.mark.parametrize("retry_after", ["\u00b2", "9" * 400, "soon", ""])
async def test_any_retry_after_is_an_answer(retry_after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    node = await world.node()

    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": retry_after})

    monkeypatch.setattr(node, "_handle", busy)
    await node.stop()
    await node.start()
    sources = Sources([NodeClient(parse_node_info(node.url)[0])])
    with pytest.raises(NoSource) as error:
        await sources.fetch(some_objects(world, 2))
    assert 0 < error.value.wait <= 300
    await sources.close()
    await node.stop()
