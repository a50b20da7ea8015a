"""Every answer that a real Lotus' virtual machine gave, with no full node behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.attack.hostile_code import CODE, creation, eth_request, numbered
from tests.attack.wire import call
from tests.execution.machine import engine, executing, import_recorded
from tests.execution.recorded_calls import LEFT_OUT, calls, differences
from tests.support.recorded_answers import ANSWERS_COMPARED

#: a mempool answers the others
EXECUTED = r"^(?!Filecoin\.MpoolPending )"
#: of the recordings of all methods, those that need a virtual machine
IN_ALL_METHODS = r"^(trace_\w+|eth_call|eth_estimateGas) "
#: how many answers are compared, and how many of them need the migration of a network upgrade
COMPARED = {"busy": (3_000, 0), "vmup": (1_747, 9)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine()
    return tmp_path_factory.mktemp("execution")


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["busy", pytest.param("vmup", marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_every_recorded_answer_is_equal(
    folder: str, stores: Path, record_property: Callable[[str, object], None]
) -> None:
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        compared, different = await differences(services, calls(f"{folder}/vm.jsonl.zst", EXECUTED))
    record_property(ANSWERS_COMPARED, compared.total() - compared[LEFT_OUT])
    print(dict(compared))
    assert not different, "\n".join(different[:5])
    assert (compared.total(), compared[LEFT_OUT]) == COMPARED[folder]


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("folder", "every", "least"),
    [
        ("devnet", 25, 90),
        pytest.param("devnet", 1, 1_962, marks=pytest.mark.long),
        pytest.param("busy", 1, 1_832, marks=pytest.mark.long),
        pytest.param("upgrades", 1, 20, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1800)
async def test_traces_made_by_execution_equal_the_recorded_ones(
    folder: str, every: int, least: int, stores: Path, record_property: Callable[[str, object], None]
) -> None:
    """The stores hold no traces: what is answered is made by execution."""
    in_all = calls(f"{folder}/rpc.jsonl.zst", IN_ALL_METHODS)
    traces = calls(f"{folder}/traces.jsonl.zst") if folder != "upgrades" else ()
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        compared, different = await differences(services, chain(in_all, islice(traces, 0, None, every)))
    record_property(ANSWERS_COMPARED, compared.total())
    print(dict(compared))
    assert not different, "\n".join(different[:5])
    assert not compared[LEFT_OUT]
    assert compared.total() >= least


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_what_a_client_makes_up_is_bounded(stores: Path) -> None:
    register_all()
    sender = next(
        one["params"][0]["From"]
        for one in calls("busy/vm.jsonl.zst", r"^Filecoin\.StateCall ")
        if one["params"][0]["From"][1] in "13" and "result" in one
    )
    async with executing(await asyncio.to_thread(import_recorded, "busy", stores), trace_entries=40_000) as services:
        dispatcher = Dispatcher(services)

        async def ask(body: bytes) -> dict[str, Any]:
            answer: dict[str, Any] = orjson.loads((await dispatcher.http(1, body))[1])
            return answer

        async def state_call(code: str) -> dict[str, Any]:
            return await ask(call("Filecoin.StateCall", creation(sender, code, 0, 0), []))

        # a loop ends with its gas; without a limit of Lotus' it is refused, and so is code that is endless only then
        assert "SysErrOutOfGas(7)" in (await ask(eth_request("eth_call", CODE["empty loop"])))["error"]["message"]
        error = (await state_call(CODE["empty loop"]))["error"]
        assert (error["code"], "more than 10000000000 gas" in error["message"]) == (-32005, True)
        error = (await state_call(CODE["endless with Lotus' limit"]))["error"]
        assert (error["code"], "execution_trace_entries" in error["message"]) == (-32005, True)
        # memory is bounded, before gas is
        error = (await ask(eth_request("eth_call", CODE["memory in steps of 16 MiB"])))["error"]
        assert (error["code"], "bytes of memory" in error["message"]) == (-32005, True)
        services.extra["execution_gas_cap"] = 100_000_000
        error = (await ask(eth_request("eth_call", numbered(CODE["empty loop"], 1))))["error"]
        assert (error["code"], "more than 100000000 gas" in error["message"]) == (-32005, True)
        assert "result" in await ask(eth_request("eth_call", numbered("00", 2)))
        del services.extra["execution_gas_cap"]
        # a long trace is not built; a deep one is
        error = (await state_call(CODE["20,000 empty events, and an end"]))["error"]
        assert (error["code"], "entries" in error["message"]) == (-32005, True)
        assert (await state_call("00"))["result"]["MsgRct"]["ExitCode"] == 0
