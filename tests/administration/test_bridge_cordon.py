"""A bridge with several nodes leaves one alone that an operator has cordoned."""

from __future__ import annotations

import json
from typing import Any

from blockstore.bridge_rows import BridgeRow
from follower.administration.bridge import BridgeControl
from rpc.server.admin import dispatch
from tests.support.bridge.node import until
from tests.support.bridge.running import following
from tests.support.bridge.world import World, at_head
from tests.support.wire_server import call


async def ask(control: BridgeControl, method: str, *params: Any) -> Any:
    answer = json.loads(await dispatch(control.methods, call(f"admin.{method}", *params)))
    return answer["error"] if "error" in answer else answer["result"]


async def test_a_bridge_leaves_a_cordoned_node_and_follows_it_again() -> None:
    world = World()
    first, second = await world.node(), await world.node()
    names = [one.url.removeprefix("http://") for one in (first, second)]
    async with following(world.store, [first.url, second.url]) as bridge:
        row = BridgeRow("one", True)
        control = BridgeControl(lambda: row, names, bridge.sources.cordon)
        await until(lambda: bridge.following == names[0] and bridge.head)
        assert await ask(control, "cordon", names[0]) == {"node": names[0], "cordoned": True}
        await until(lambda: bridge.following == names[1])
        assert bridge.sources.all[0].failures == 0
        asked = len(first.read)
        await second.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
        assert len(first.read) == asked
        # one is always left, and strangers' names are none
        assert "the last node" in (await ask(control, "cordon", names[1]))["data"]
        assert "there are" in (await ask(control, "cordon", "10.0.0.1:1"))["data"]
        await ask(control, "uncordon", names[0])
        await ask(control, "cordon", names[1])
        await first.go_to(world.tips[11].key)
        await until(lambda: at_head(bridge, world.tips[11]))
        assert bridge.following == names[0]
    for node in world.nodes:
        await node.stop()
    assert "admin.cordon" not in BridgeControl(lambda: row, names[:1]).methods
