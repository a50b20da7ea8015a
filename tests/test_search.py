"""Searching messages and waiting for them, weight and finality: recorded answers, and chains made here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

import rpc.methods.chain
import rpc.methods.chain_more
import rpc.methods.chain_node
import rpc.methods.search  # noqa: F401  (declares)
from blockstore.memory import MemoryStore
from blockstore.store import Batch, HeadEntry
from follower.compare import judge, read_records
from rpc.dispatch import Dispatcher
from tests.recorded import recorded
from tests.test_recorded_chain import PATHS, ask, imported

METHODS = re.compile(r"StateSearchMsg|StateWaitMsg|StateGetReceipt|ChainTipSetWeight|ChainGetFinalizedTipSet|ChainGetNode")


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_recorded_searches(folder: str) -> None:
    dispatcher = Dispatcher(await imported(folder, MemoryStore()))
    wrong: list[str] = []
    asked = 0
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), METHODS, PATHS):
        asked += 1
        why, _ = judge(record, await ask(dispatcher, record.path, record.method, record.params))
        if why is not None:
            wrong.append(f"{record.path} {record.method} {orjson.dumps(record.params).decode()[:200]}: {why}")
    assert asked > 500
    assert not wrong, f"{len(wrong)} of {asked}\n" + "\n".join(wrong[:20])
