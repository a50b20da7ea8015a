"""`debug_traceTransaction`, `debug_traceCall` and `trace_call`, judged by what a real Lotus answered of the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rpc.server.dispatch import Dispatcher
from tests.execution.geth_forms import check_call_frame, check_difference, check_prestate
from tests.execution.machine import engine, executing, import_recorded
from tests.execution.recorded_calls import ask, calls

_TRACES_OF_BLOCKS = r"^trace_replayBlockTransactions "
#: how masked IDs begin
_OF_THE_NETWORK = "0xff" + "00" * 11


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine()
    return tmp_path_factory.mktemp("debug")


def frames(frame: dict[str, Any], address: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """A frame and those below it, with their places."""
    yield address, frame
    for at, one in enumerate(frame.get("calls", ())):
        yield from frames(one, (*address, at))


def recorded_frame(trace: dict[str, Any]) -> dict[str, Any]:
    """What a recorded trace says of a frame."""
    action, result, error = trace["action"], trace["result"], trace.get("error", "")
    is_create = trace["type"] == "create"
    output = result["code" if is_create else "output"]
    found = {
        "from": action["from"],
        "input": action["init" if is_create else "input"],
        "value": action["value"],
        "output": output if not error or error == "Reverted" else "0x",
        "error": "execution reverted" if error == "Reverted" else error,
        "to": (None if error else result["address"]) if is_create else action["to"],
        "type": "CREATE" if is_create else action["callType"].upper(),
    }
    if trace["traceAddress"]:
        found |= {"gas": action["gas"], "gasUsed": result["gasUsed"]}
    if found["type"] == "STATICCALL":
        assert found.pop("value") == "0x0"
    return found


def comparable(frame: dict[str, Any], address: tuple[int, ...]) -> dict[str, Any]:
    found = {"output": "0x", "error": "", "to": None, **frame}
    for name in ("calls", "logs", "revertReason", *(() if address else ("gas", "gasUsed"))):
        found.pop(name, None)
    found["type"] = found["type"].replace("CREATE2", "CREATE")
    return found


async def result_of(dispatcher: Dispatcher, method: str, *params: Any) -> Any:
    answer = await ask(dispatcher, method, params)
    assert "result" in answer, (method, params, answer)
    return answer["result"]


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("folder", "every", "least"),
    [
        ("devnet", 12, 50),
        pytest.param("devnet", 1, 800, marks=pytest.mark.long),
        pytest.param("busy", 4, 800, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1800)
async def test_transactions_give_the_recorded_frames_and_states(
    folder: str, every: int, least: int, stores: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each transaction of some blocks: frames as recorded; accounts before and after as the other methods read them."""
    seen: Counter[str] = Counter()
    async with executing(await asyncio.to_thread(import_recorded, folder, stores)) as services:
        dispatcher = Dispatcher(services)
        blocks = (one for one in calls(f"{folder}/traces.jsonl.zst", _TRACES_OF_BLOCKS) if one["result"])
        for block in islice(blocks, 0, None, every):
            await _judge_block(dispatcher, int(block["params"][0], 16), block["result"], seen)
    record_property("transactions traced", dict(seen))
    print(dict(seen))
    assert seen["transactions"] >= least
    assert seen["logs"] > 10
    assert seen["slots"] > 10


async def _judge_block(dispatcher: Dispatcher, height: int, recorded: list[dict[str, Any]], seen: Counter[str]) -> None:
    receipts = {one["transactionHash"]: one for one in await result_of(dispatcher, "eth_getBlockReceipts", hex(height))}
    #: of each account: what the transactions say one after the other
    first: dict[str, dict[str, Any]] = {}
    last: dict[str, dict[str, Any]] = {}
    for one in recorded:
        digest = one["transactionHash"]
        config = {"tracer": "callTracer", "tracerConfig": {"withLog": True}}
        frame = await result_of(dispatcher, "debug_traceTransaction", digest, config)
        check_call_frame(frame)
        found = list(frames(frame))
        traces = one["trace"] or []
        if traces:
            assert [list(address) for address, _ in found] == [trace["traceAddress"] for trace in traces]
            for (address, shown), trace in zip(found, traces, strict=True):
                assert comparable(shown, address) == recorded_frame(trace), digest
        receipt = receipts[digest]
        assert frame["gasUsed"] == receipt["gasUsed"]
        logs = [log for _, shown in found for log in shown.get("logs", ())]
        wanted = [(log["address"], log["topics"], log["data"]) for log in receipt["logs"]]
        assert sorted((log["address"], log["topics"], log["data"]) for log in logs) == sorted(wanted)
        seen["logs"] += len(logs)
        await _judge_states(dispatcher, digest, first, last, seen)
        seen["transactions"] += 1
    # the block's rewards and its cron touch neither contracts nor the accounts that send
    for address, account in first.items():
        await _compare_account(dispatcher, address, account, hex(height - 1), seen)
    for address, account in last.items():
        await _compare_account(dispatcher, address, account, hex(height), seen)


async def _judge_states(
    dispatcher: Dispatcher, digest: str, first: dict[str, Any], last: dict[str, Any], seen: Counter[str]
) -> None:
    before = await result_of(dispatcher, "debug_traceTransaction", digest, {"tracer": "prestateTracer"})
    check_prestate(before)
    config = {"tracer": "prestateTracer", "tracerConfig": {"diffMode": True}}
    difference = await result_of(dispatcher, "debug_traceTransaction", digest, config)
    check_difference(difference)
    pre, post = difference["pre"], difference["post"]
    for address, account in before.items():
        if address in last and not address.startswith(_OF_THE_NETWORK):
            # as the transaction before left it: only rewards of blocks come between
            assert account["balance"] == last[address]["balance"], (digest, address)
            assert account.get("nonce", 0) == last[address]["nonce"], (digest, address)
        known = first.setdefault(address, {**account, "nonce": account.get("nonce", 0), "storage": {}})
        for slot, value in account.get("storage", {}).items():
            if address in last:
                assert last[address]["storage"].get(slot, value) == value
                if slot not in last[address]["storage"]:
                    known["storage"].setdefault(slot, value)
            else:
                known["storage"].setdefault(slot, value)
        now = last.setdefault(address, {"storage": {}, "code": account.get("code", "0x")})
        if address in pre and address not in post:
            # it destroyed itself
            now.update({"balance": "0x0", "nonce": 0, "code": "0x"})
            now["storage"] |= dict.fromkeys(account.get("storage", {}), "0x" + "00" * 32)
            seen["destroyed"] += 1
            continue
        change = post.get(address, {})
        now["balance"] = change.get("balance", account["balance"])
        now["nonce"] = change.get("nonce", account.get("nonce", 0))
        if address in pre:
            assert pre[address]["balance"] == account["balance"]
            assert pre[address].get("nonce", 0) == account.get("nonce", 0)
            for slot in account.get("storage", {}):
                now["storage"][slot] = change.get("storage", {}).get(slot, "0x" + "00" * 32)
        else:
            assert not account.get("storage")
    for address in post.keys() - before.keys():
        change = post[address]
        last[address] = {
            "balance": change.get("balance", "0x0"),
            "nonce": change.get("nonce", 0),
            "code": change.get("code", "0x"),
            "storage": dict(change.get("storage", {})),
        }
        seen["created"] += 1


async def _compare_account(
    dispatcher: Dispatcher, address: str, account: dict[str, Any], block: str, seen: Counter[str]
) -> None:
    if address.startswith(_OF_THE_NETWORK):
        # actors of the network get rewards, and are called by the cron
        seen["accounts left out: actors of the network"] += 1
        return
    answer = await ask(dispatcher, "eth_getBalance", [address, block])
    if "error" in answer and answer["error"]["code"] == 12:
        seen["accounts left out: null round before"] += 1
        return
    assert answer["result"] == account["balance"], (address, block)
    assert int(await result_of(dispatcher, "eth_getTransactionCount", address, block), 16) == account["nonce"]
    assert await result_of(dispatcher, "eth_getCode", address, block) == account.get("code", "0x")
    for slot, value in account["storage"].items():
        assert await result_of(dispatcher, "eth_getStorageAt", address, slot, block) == value, (address, slot, block)
        seen["slots"] += 1
    seen["accounts"] += 1
