"""Every tipset of the recorded chains, executed: the state and each receipt are those that the chain has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path

import pytest

from rpc.context import Context
from rpc.lookup.tipset_execution import crosses_migration, execute_tipset
from tests.execution.machine import engine, executing, import_recorded, require_machine
from tests.support.recorded_answers import TIPSETS_EXECUTED

#: network versions
ALL = range(1000)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine()
    return tmp_path_factory.mktemp("tipsets")


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("folder", "every", "least", "versions"),
    [
        ("devnet", 25, 39, ALL),
        # one of fvm 2 and one of fvm 3: each version's code takes some seconds to compile
        ("upgrades", 4, 10, {17, 20}),
        pytest.param("devnet", 1, 981, ALL, marks=pytest.mark.long),
        pytest.param("busy", 1, 900, ALL, marks=pytest.mark.long),
        pytest.param("vmup", 1, 400, ALL, marks=pytest.mark.long),
        pytest.param("upgrades", 1, 490, ALL, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1800)
async def test_executed_tipsets_give_the_roots_that_the_chain_has(
    folder: str,
    every: int,
    least: int,
    versions: Container[int],
    stores: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The root of the receipts covers each exit code, return value, gas used, and root of events."""
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        ctx = Context(services)
        assert ctx.executor is not None
        first_version: int = require_machine().FIRST_NETWORK_VERSION
        seen: Counter[str] = Counter()
        messages = 0
        child = (await ctx.head()).tipset
        while True:
            tipset = await ctx.index.parent(child)
            if tipset.height == 0:
                break
            parent = await ctx.index.parent(tipset)
            change = crosses_migration(ctx.network, parent.height, tipset.height)
            version = ctx.network.version_at(parent.height + 1)
            if change is not None:
                seen["left out: the state changes by a migration"] += 1
            elif version < first_version:
                seen[f"left out: network versions below {first_version} are not built in"] += 1
            elif version not in versions or seen.total() % every:
                seen["not asked for in this run"] += 1
            else:
                done = await execute_tipset(ctx, ctx.executor, tipset)
                assert done.root == child.parent_state_root, f"the state after epoch {tipset.height}"
                assert done.receipts == child.parent_message_receipts, f"the receipts of epoch {tipset.height}"
                seen["executed, all equal"] += 1
                messages += len(done.messages)
            child = tipset
    text = f"{folder}: {dict(seen)}, {messages} receipts"
    record_property(TIPSETS_EXECUTED, text)
    print(text)
    assert seen["executed, all equal"] >= least
