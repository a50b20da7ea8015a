"""Random head moves, cuts, lost frames, restarts and changes of the way to follow, on small chains."""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockstore.memory import MemoryStore
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import Walker, following, replay_log

STEPS = st.lists(
    st.sampled_from(
        [
            "extend",
            "extend",
            "extend",
            "reorg",
            "back",
            "jump",
            "cut",
            "close",
            "lose",
            "restart",
            "poll",
            "path",
            "wait",
        ]
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(steps=["wait", "lose", "extend"], seed=0, nodes=1)
@given(steps=STEPS, seed=st.integers(0, 2**31), nodes=st.integers(1, 2))
async def test_whatever_happens_the_log_leads_to_the_nodes_head(steps: list[str], seed: int, nodes: int) -> None:
    rng = random.Random(seed)
    chain = SmallChain(seed)
    tips = chain.line(chain.genesis, 5)
    made = [await TestNode(chain.objects, chain.genesis.key, tips[2].key).start() for _ in range(nodes)]
    first = made[0]
    store = MemoryStore()
    try:
        async with following(store, [node.url for node in made]) as bridge:
            for step in steps:
                head = chain.tipsets[first.head]
                to = head.key
                if step == "extend":
                    to = chain.extend(head, nulls=rng.choice([0, 0, 1, 5]), blocks=rng.choice([1, 1, 2])).key
                elif step in ("reorg", "back", "jump"):
                    depth = rng.randint(1, 4)
                    down = head
                    while depth and down.height > 0:
                        down = chain.tipsets[down.parents]
                        depth -= 1
                    if step == "back" and down.height > 0:
                        to = down.key
                    elif step == "reorg":
                        to = chain.line(down, rng.randint(1, 6))[-1].key
                    else:
                        to = rng.choice([t for t in chain.tipsets.values() if t.height > 0]).key
                elif step == "cut":
                    await first.cut()
                elif step == "close":
                    await first.close_channels()
                elif step == "restart":
                    await first.stop()
                    await first.start()
                elif step == "lose":
                    for node in made:
                        node.faults.is_mute = True
                    for node in made:
                        await node.go_to(
                            chain.line(chain.tipsets[node.head], 2)[-1].key if node is first else first.head
                        )
                        node.faults.is_mute = False
                elif step == "poll":
                    first.faults.has_websocket = not first.faults.has_websocket
                elif step == "path":
                    first.faults.wrong_path, first.faults.no_path = rng.choice(
                        [(False, False), (True, False), (False, True)]
                    )
                else:
                    await until(lambda: bridge.head is not None)
                    await asyncio.sleep(rng.random() * 0.02)
                for node in made:
                    if to != node.head:
                        await node.go_to(to)
            # frames were lost: what a node pushes next tells the bridge so
            last = chain.extend(chain.tipsets[first.head]).key
            for node in made:
                await node.go_to(last)
            await until(lambda: bridge.head is not None and bridge.head.head.key == last)
    finally:
        for node in made:
            await node.stop()
    log = await replay_log(store)
    wanted = [last]
    while wanted[-1] != log[0].key:
        wanted.append(chain.tipsets[wanted[-1]].parents)
    assert [ref.key for ref in log] == wanted[::-1], "the chain by parents, with no tipset left out"
    await Walker().published(store)
