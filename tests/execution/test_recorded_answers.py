"""Every answer that a real Lotus' virtual machine gave, with no full node behind; and whole tipsets."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from rpc.context import Context
from rpc.lookup.tipset_execution import crosses_migration, execute_tipset
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.attack.hostile_code import CODE, creation, eth_request, numbered
from tests.attack.wire import call
from tests.execution.machine import engine, executing, import_recorded
from tests.support.recorded import recorded

#: what another node answers in another way, and why
LEFT_OUT = {
    r"MpoolPending ": "a mempool answers it",
}
#: where an answer holds what is drawn anew each time: what is left of it to compare
_DRAWN = re.compile(r"(Actor balance less than needed: [0-9.]+) < [0-9.]+")
#: fields that no answer repeats
_TIMES = frozenset({"tt", "Duration"})
#: a node whose index is late answers a bloom of ones
_FULL_BLOOM = "0x" + "ff" * 256
#: how many answers are compared, at least
COMPARED = {"busy": 3_000, "vmup": 1_740}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine()
    return tmp_path_factory.mktemp("execution")


def records(folder: str) -> Iterator[dict[str, Any]]:
    with zstandard.open(recorded(f"{folder}/vm.jsonl.zst"), "rt", encoding="utf-8") as lines:
        for line in lines:
            one = orjson.loads(line)
            if not any(re.search(pattern, one["method"] + " ") for pattern in LEFT_OUT):
                yield one


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: "" if name == "logsBloom" and item == _FULL_BLOOM else comparable(item)
            for name, item in value.items()
            if name not in _TIMES
        }
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return _DRAWN.sub(r"\1", value) if isinstance(value, str) else value


async def differences(services: Services, folder: str) -> tuple[Counter[str], list[str]]:
    """(answers compared by method, what differs)."""
    register_all()
    dispatcher = Dispatcher(services)
    compared: Counter[str] = Counter()
    found = []
    for one in records(folder):
        request = {"jsonrpc": "2.0", "id": 1, "method": one["method"], "params": one["params"]}
        _, body = await dispatcher.http(int(one["path"][-1]), orjson.dumps(request))
        answer = orjson.loads(body)
        wanted = comparable({name: one[name] for name in ("result", "error") if name in one})
        got = comparable({name: answer[name] for name in ("result", "error") if name in answer})
        if isinstance(wanted.get("result"), dict) and wanted["result"].get("logsBloom") == "":
            got["result"]["logsBloom"] = ""
        compared[one["method"]] += 1
        if got != wanted:
            text = f"{one['method']} {orjson.dumps(one['params'])[:400]!r}: {str(got)[:600]} for {str(wanted)[:600]}"
            found.append(text)
    return compared, found


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["busy", pytest.param("vmup", marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_every_recorded_answer_is_equal(
    folder: str, stores: Path, record_property: Callable[[str, object], None]
) -> None:
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        compared, different = await differences(services, folder)
    record_property("executed answers compared", compared.total())
    print(dict(compared))
    assert not different, "\n".join(different[:5])
    assert compared.total() >= COMPARED[folder]


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("folder", "every", "least"),
    [
        ("devnet", 25, 35),
        pytest.param("devnet", 1, 981, marks=pytest.mark.long),
        pytest.param("busy", 1, 900, marks=pytest.mark.long),
        pytest.param("vmup", 1, 400, marks=pytest.mark.long),
        pytest.param("upgrades", 1, 490, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1800)
async def test_executed_tipsets_give_the_roots_that_the_chain_has(
    folder: str, every: int, least: int, stores: Path
) -> None:
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        ctx = Context(services)
        assert ctx.executor is not None
        child = (await ctx.head()).tipset
        equal = seen = 0
        while child.height > 0:
            tipset = await ctx.index.parent(child)
            if tipset.height == 0:
                break
            parent = await ctx.index.parent(tipset)
            crosses = crosses_migration(ctx.network, parent.height, tipset.height) is not None
            seen += 1
            if not crosses and seen % every == 0 and ctx.network.version_at(parent.height + 1) >= 21:
                done = await execute_tipset(ctx, ctx.executor, tipset)
                assert done.root == child.parent_state_root, f"the state after epoch {tipset.height}"
                assert done.receipts == child.parent_message_receipts, f"the receipts of epoch {tipset.height}"
                equal += 1
            child = tipset
    assert equal >= least


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_what_a_client_makes_up_is_bounded(stores: Path) -> None:
    register_all()
    sender = next(
        one["params"][0]["From"]
        for one in records("busy")
        if one["method"] == "Filecoin.StateCall" and one["params"][0]["From"][1] in "13" and "result" in one
    )
    async with executing(await asyncio.to_thread(import_recorded, "busy", stores), trace_entries=40_000) as services:
        dispatcher = Dispatcher(services)

        async def ask(body: bytes) -> dict[str, Any]:
            answer: dict[str, Any] = orjson.loads((await dispatcher.http(1, body))[1])
            return answer

        async def state_call(code: str) -> dict[str, Any]:
            return await ask(call("Filecoin.StateCall", creation(sender, code, 0, 0), []))

        # a loop ends with its gas; without a limit of Lotus' it is refused
        assert "SysErrOutOfGas(7)" in (await ask(eth_request("eth_call", CODE["empty loop"])))["error"]["message"]
        error = (await state_call(CODE["empty loop"]))["error"]
        assert (error["code"], "more than 10000000000 gas" in error["message"]) == (-32005, True)
        services.extra["execution_gas_cap"] = 100_000_000
        error = (await ask(eth_request("eth_call", numbered(CODE["empty loop"], 1))))["error"]
        assert (error["code"], "more than 100000000 gas" in error["message"]) == (-32005, True)
        assert "result" in await ask(eth_request("eth_call", numbered("00", 2)))
        del services.extra["execution_gas_cap"]
        # a long trace is not built; a deep one is
        error = (await state_call(CODE["20,000 empty events, and an end"]))["error"]
        assert (error["code"], "entries" in error["message"]) == (-32005, True)
        assert (await state_call("00"))["result"]["MsgRct"]["ExitCode"] == 0
