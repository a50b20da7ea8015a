"""Every method says how long its answers may be kept, and what is not a function of its request says never."""

from __future__ import annotations

import re

import pytest

from rpc.methods import register_all
from rpc.registry import REGISTRY, Cache, Cost, Registry
from rpc.server.answers.question import tipset_places

#: names of methods that write, wait, draw lots, subscribe, or tell of the process, the store, the node or the clock
NEVER = re.compile(
    r"Mpool|F3|Push|PutObj|Send|Subscribe|Unsubscribe|Notify|Filter(Changes|Logs)|New\w*Filter|UninstallFilter|WaitMsg|Syncing|SyncState"
    r"|NodeStatus|StartTime|GasPrice|MaxPriorityFee|GasEstimate(GasPremium|MessageGas|GasLimit)|EstimateGas"
    r"|BlockstoreInfo|ValidateIndex|MinerGetBaseInfo|StateCall|StateCompute|StateReplay|debug_|trace_call"
    r"|BeaconEntry|BeaconGetEntry"
)


def test_every_method_is_classified() -> None:
    register_all()
    assert [one.name for one in REGISTRY if one.cache is None] == []


def test_nothing_that_is_no_function_of_its_request_is_kept() -> None:
    register_all()
    never = {one.name for one in REGISTRY if one.cache is Cache.NEVER}
    assert never == {one.name for one in REGISTRY if NEVER.search(one.name)}
    for one in REGISTRY:
        if one.channel or one.cost is Cost.WAIT or one.perm != "read" or one.answered == "forwarded":
            assert one.cache is Cache.NEVER, one.name


def test_a_tipset_method_names_its_tipsets() -> None:
    register_all()
    assert [one.name for one in REGISTRY if one.cache is Cache.TIPSET and not tipset_places(one)] == []


def test_a_method_that_says_nothing_is_not_kept() -> None:
    registry = Registry()

    @registry.method("Other.Silent")
    async def silent(ctx: object) -> int:
        return 1

    assert next(iter(registry)).cache is None


@pytest.mark.parametrize("cache", list(Cache))
def test_each_kind_is_used(cache: Cache) -> None:
    register_all()
    assert any(one.cache is cache for one in REGISTRY)
