"""A bridge in a process of its own, to be killed: `python -m tests.support.bridge.process STORE NODE`."""

from __future__ import annotations

import asyncio
import sys

from blockstore.open import open_store
from rpc.client.node_info import parse_node_info
from tests.support.bridge.running import quick


async def main(store_url: str, node: str) -> None:
    from leader_bridge.bridge import Bridge

    store = await open_store(store_url, map_size=1 << 30)
    await Bridge(store, parse_node_info(node), quick()).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
