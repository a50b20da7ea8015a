"""Traces: recorded once a tipset by the bridge, answered by followers as the node answered them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from blockstore.memory import MemoryStore
from blockstore.store import RECORDED, Batch, Store
from chain.index.coverage import covered
from chain.index.eth_rows import ETH_TXS_INDEX
from chain.index.recorded_answers import PIECE, TRACES, TRACES_INDEX, drop_answers, keep_answer, kept_answers, pieces_of
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from follower.commands.comparison import read_records
from leader_bridge.store.coverage import save_coverage
from rpc.context import Context
from rpc.lookup.eth import recorded_traces
from rpc.lookup.eth.recorded_traces import traces_by_transaction
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.bridge.trace_bench import Bench, made_trace
from tests.support.made_chain import ask
from tests.support.recorded import recorded
from tests.support.recorded_answers import ANSWERS_COMPARED
from tests.support.served import services_over
from tests.support.whole_path import filled

TRACE = re.compile(r"trace_")


# --- the whole path ------------------------------------------------------------------------------------


async def traced(folder: str) -> MemoryStore:
    """A store that a bridge filled from the replayed node, traces and all."""
    node = await start_replay(recorded(folder), answers=[recorded(f"{folder}/traces.jsonl.zst")])
    store = MemoryStore()
    await filled(store, node, folder, trace_lookback=100_000)
    await node.stop()
    return store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def devnet() -> MemoryStore:
    return await traced("devnet")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def busy() -> MemoryStore:
    return await traced("busy")


async def _ask(dispatcher: Dispatcher, method: str, *params: Any) -> dict[str, Any]:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    answer: dict[str, Any] = orjson.loads((await dispatcher.http(1, body))[1])
    return answer


async def assert_traces(store: Store, file: str, tell: Callable[[str, object], None], high: int | None = None) -> int:
    """Every recorded trace is answered as the node did, errors to the letter; how many there are. `high`: only those
    that are not empty, of epochs up to it."""
    dispatcher = Dispatcher(await services_over(store))
    asked = 0
    for record in read_records(recorded(file), TRACE):
        if high is not None:
            found = record.answer.get("result")
            if not found or found[0].get("blockNumber", high + 1) > high:
                continue
        answer = await _ask(dispatcher, record.method, *record.params)
        assert answer.get("result") == record.answer.get("result"), (record.method, record.params)
        assert answer.get("error", {}).get("code") == (record.answer.get("error") or {}).get("code")
        if record.answer.get("error"):
            assert answer["error"]["message"] == record.answer["error"]["message"]
        asked += 1
    tell(ANSWERS_COMPARED, asked)
    return asked


@pytest.mark.recorded
@pytest.mark.parametrize(("file", "least"), [("rpc.jsonl.zst", 17), ("traces.jsonl.zst", 1962)])
@pytest.mark.asyncio(loop_scope="module")
async def test_every_recorded_trace_is_answered_as_the_node_did(
    devnet: Store, file: str, least: int, record_property: Callable[[str, object], None]
) -> None:
    assert await assert_traces(devnet, f"devnet/{file}", record_property) >= least


@pytest.mark.long
@pytest.mark.recorded
@pytest.mark.parametrize(("file", "least"), [("rpc.jsonl.zst", 17), ("vm.jsonl.zst", 310), ("traces.jsonl.zst", 1832)])
@pytest.mark.asyncio(loop_scope="module")
async def test_every_trace_of_busy_tipsets_too(
    busy: Store, file: str, least: int, record_property: Callable[[str, object], None]
) -> None:
    assert await assert_traces(busy, f"busy/{file}", record_property) >= least


@pytest.mark.recorded
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_recorded_is_covered_down_to_the_genesis(devnet: Store) -> None:
    head = await devnet.head()
    assert head is not None
    ((low, high),) = await covered(devnet, TRACES_INDEX)
    assert low == 0
    assert high in range(head.head.height - 3, head.head.height)


@pytest.mark.recorded
async def test_only_the_lookback_is_recorded_and_an_answer_beyond_it_says_so() -> None:
    register_all()
    node = await start_replay(recorded("devnet"), answers=[recorded("devnet/traces.jsonl.zst")])
    store = MemoryStore()
    await filled(store, node, "devnet", trace_lookback=50)
    await node.stop()
    head = await store.head()
    assert head is not None
    lowest = head.head.height - 50
    ((low, _),) = await covered(store, TRACES_INDEX)
    # a tipset covers the null rounds before it
    assert lowest - 5 <= low <= lowest
    services = await services_over(store)
    tipset = await services.index.tipset(TipsetKey(head.head.key))
    dispatcher = Dispatcher(services)
    while tipset.height:
        tipset = await services.index.parent(tipset)
        row = await store.row(RECORDED, tipset.key.cid, TRACES)
        assert (row is not None) == (tipset.height >= lowest), tipset.height
    answer = await _ask(dispatcher, "trace_block", "0x20")
    assert re.match(
        r"not held: the traces of the tipset at epoch \d+ \(recorded: epochs \d+ to", answer["error"]["message"]
    )
    answer = await _ask(dispatcher, "trace_filter", {"fromBlock": hex(lowest - 20), "toBlock": hex(lowest + 5)})
    assert answer["error"]["message"].startswith("not held: the traces of the tipset at epoch")


# --- pieces --------------------------------------------------------------------------------------------


def _random(size: int) -> bytes:
    """Bytes that do not shrink."""
    return Random(1).randbytes(size)


_SIZES = st.sampled_from([0, 1, PIECE - 10, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE]) | st.integers(0, 3 * PIECE)


@given(st.lists(_SIZES, max_size=4))
async def test_answers_come_back_whole_whatever_their_size(sizes: list[int]) -> None:
    store = MemoryStore()
    answers = [_random(size) for size in sizes]
    cids = [bytes([at]) for at in range(len(sizes))]
    for cid, answer in zip(cids, answers, strict=True):
        assert all(len(piece) <= PIECE + 2 for piece in pieces_of(answer))
        await keep_answer(store, cid, TRACES, answer)
    assert await kept_answers(store, [*cids, b"none"], TRACES) == [*answers, None]
    batch = Batch()
    assert await drop_answers(store, batch, [*cids, b"none"], TRACES) == len(sizes)
    await store.write(batch)
    for cid in cids:
        assert await store.scan(RECORDED, cid) == []


def test_an_answer_without_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.index.recorded_answers.MAX_PIECES", 2)
    assert len(pieces_of(_random(2 * PIECE - 5000))) == 2
    with pytest.raises(ValueError, match="too large"):
        pieces_of(_random(2 * PIECE))


@pytest.mark.parametrize("lost", [0, 1])
async def test_an_answer_that_is_not_whole_is_not_there(lost: int) -> None:
    store = MemoryStore()
    await keep_answer(store, b"t", TRACES, _random(2 * PIECE))
    batch = Batch()
    batch.delete(RECORDED, b"t", TRACES + (bytes([0, lost]) if lost else b""))
    await store.write(batch)
    assert await kept_answers(store, [b"t"], TRACES) == [None]


# --- answering -----------------------------------------------------------------------------------------


async def _answering(count: int = 8) -> tuple[Bench, Dispatcher]:
    register_all()
    bench = Bench()
    await bench.grow(count)
    for tipset in bench.tipsets[1:-1]:
        traces = [
            made_trace(tipset, at, action={"from": f"0x{at:040x}", "to": f"0x{tipset.height:040x}"}) for at in range(3)
        ]
        await keep_answer(bench.chain.store, tipset.key.cid, TRACES, orjson.dumps(traces))
    bench.chain.log.publish([], bench.tipsets)
    return bench, Dispatcher(bench.chain.services())


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("0x5", (12, "requested epoch was a null round (5)")),
        ("earliest", (1, 'block param "earliest" is not supported')),
        ("0x99", (1, "requested a future epoch (beyond 'latest')")),
        ("soon", (1, "failed to parse block number: ")),
        ("pending", (1, "not held: the traces of the tipset at epoch 8 ")),
    ],
)
async def test_a_block_that_cannot_be_traced_is_refused_in_the_nodes_words(block: str, error: tuple[int, str]) -> None:
    _, dispatcher = await _answering()
    for name, more in (("EthTraceBlock", ()), ("EthTraceReplayBlockTransactions", (["trace"],))):
        answer = await ask(dispatcher, name, block, *more)
        assert answer["error"]["code"] == error[0]
        assert answer["error"]["message"].startswith(error[1])


async def test_blocks_by_tag_number_and_the_genesis() -> None:
    _, dispatcher = await _answering()
    blocks = (("latest", 7), ("0x3", 3), ("3", 3), ("safe", 0), ("0x0", 0))
    for block, height in blocks:
        answer = await ask(dispatcher, "EthTraceBlock", block)
        assert [trace["blockNumber"] for trace in answer["result"]] == ([height] * 3 if height else []), block


async def test_only_traces_are_replayed() -> None:
    _, dispatcher = await _answering()
    for kinds in ([], ["vmTrace"], ["trace", "trace"]):
        answer = await ask(dispatcher, "EthTraceReplayBlockTransactions", "0x3", kinds)
        assert answer["error"]["message"] == "only 'trace' is supported"


async def cover(bench: Bench, index: bytes, ranges: list[tuple[int, int]]) -> None:
    batch = Batch()
    save_coverage(batch, index, ranges)
    await bench.chain.store.write(batch)


async def test_a_transaction_beyond_what_is_indexed_is_not_called_unknown() -> None:
    bench, dispatcher = await _answering()
    await cover(bench, ETH_TXS_INDEX, [(4, 8)])
    await cover(bench, TRACES_INDEX, [(6, 8)])
    unknown = "0x" + "ab" * 32
    answer = await ask(dispatcher, "EthTraceTransaction", unknown)
    assert answer["error"]["message"] == (
        f"not held: transaction {unknown} (transactions are indexed for epochs 4 to 8; "
        "traces are recorded for epochs 6 to 8)"
    )


async def test_transactions_that_are_unknown() -> None:
    bench, dispatcher = await _answering()
    await cover(bench, ETH_TXS_INDEX, [(0, 8)])
    answer = await ask(dispatcher, "EthTraceTransaction", "0x" + "ab" * 32)
    assert answer["error"]["message"] == "transaction not found"
    answer = await ask(dispatcher, "EthTraceTransaction", "0xab")
    assert answer["error"]["message"].startswith("cannot parse eth hash: ")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [(7, 0), (7, 1), (7, 2)]),
        ({"fromBlock": "0x6"}, [(6, 0), (6, 1), (6, 2), (7, 0), (7, 1), (7, 2)]),
        ({"fromBlock": "0x3", "toBlock": "0x6", "fromAddress": f"0x{1:040x}"}, [(3, 1), (4, 1), (6, 1)]),
        ({"fromBlock": "0x0", "toAddress": [f"0x{4:040x}", f"0x{6:040x}"], "count": 4, "after": "0x1"},
         [(4, 1), (4, 2), (6, 0), (6, 1)]),
        ({"fromBlock": "0x7", "toBlock": "0x3"}, []),
        ({"fromBlock": "0x0", "count": 0}, []),
        ({"fromBlock": "0x5", "toBlock": "0x5"}, []),
    ],
)  # fmt: skip
async def test_filters(wanted: dict[str, Any], found: list[tuple[int, int]]) -> None:
    _, dispatcher = await _answering()
    answer = await ask(dispatcher, "EthTraceFilter", wanted)
    assert [(one["blockNumber"], one["transactionPosition"]) for one in answer["result"]] == found


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        ({"fromBlock": "0x0", "toBlock": "0xb41"}, -32005, "block range exceeds maximum of 2880 (got 2881)"),
        ({"fromBlock": "earliest"}, 1, 'cannot parse fromBlock: block param "earliest" is not supported'),
        ({"toBlock": "finalized"}, 1, "cannot parse toBlock: cannot parse fromBlock: strconv.ParseUint"),
        ({"count": 501}, 1, "invalid response count, requested 501, maximum supported is 500"),
        ({"fromBlock": "0x6", "toBlock": "0x9"}, 1, "cannot get trace for block 8: requested a future epoch"),
        ({"fromBlock": 6}, -32700, "json: cannot unmarshal number into Go struct field"),
    ],
)
async def test_filters_that_are_refused(wanted: dict[str, Any], code: int, text: str) -> None:
    _, dispatcher = await _answering()
    answer = await ask(dispatcher, "EthTraceFilter", wanted)
    assert answer["error"]["code"] == code
    assert text in answer["error"]["message"]


async def test_a_creation_that_failed_matches_no_receiver() -> None:
    bench, dispatcher = await _answering()
    tipset = bench.tipsets[3]
    action = {"from": "0x" + "11" * 20}
    traces = [made_trace(tipset, type="create", action=action, result={"gasUsed": "0x1", "code": "0x"})]
    await keep_answer(bench.chain.store, tipset.key.cid, TRACES, orjson.dumps(traces))
    block = {"fromBlock": "0x3", "toBlock": "0x3"}
    answer = await ask(dispatcher, "EthTraceFilter", block)
    assert len(answer["result"]) == 1
    answer = await ask(dispatcher, "EthTraceFilter", {**block, "toAddress": ["0x" + "00" * 20]})
    assert answer["result"] == []


async def test_what_is_not_recorded_is_asked_of_the_node_behind_pinned_to_our_tipset() -> None:
    bench, _ = await _answering()
    batch = Batch()
    await drop_answers(bench.chain.store, batch, [tipset.key.cid for tipset in bench.tipsets], TRACES)
    await bench.chain.store.write(batch)
    dispatcher = Dispatcher(replace(bench.chain.services(), node=bench.node))
    answer = await ask(dispatcher, "EthTraceBlock", "latest")
    assert answer["result"] == [made_trace(bench.tipsets[-2])]
    assert bench.node.asked == [7]
    bench.node.tipsets[7] = bench.tipsets[2]
    answer = await ask(dispatcher, "EthTraceBlock", "latest")
    assert answer["error"]["code"] == -32002


async def test_a_nodes_traces_of_other_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = await _answering()
    batch = Batch()
    await drop_answers(bench.chain.store, batch, [tipset.key.cid for tipset in bench.tipsets], TRACES)
    await bench.chain.store.write(batch)
    dispatcher = Dispatcher(replace(bench.chain.services(), node=bench.node))
    wanted = {"fromBlock": "0x1", "toBlock": "0x7"}
    blocks = [tipset for tipset in bench.tipsets if 1 <= tipset.height <= 7]
    assert (await ask(dispatcher, "EthTraceFilter", wanted))["result"] == [made_trace(tipset) for tipset in blocks]
    told = bench.node.call

    async def of_a_fork(method: str, *params: Any) -> Any:
        *common, last = await told(method, *params)
        return [*common, last | {"blockHash": "0x" + "77" * 32}]

    with monkeypatch.context() as patch:
        patch.setattr(bench.node, "call", of_a_fork)
        assert (await ask(dispatcher, "EthTraceFilter", wanted))["error"]["code"] == -32002
    # the tipset has no message with that hash
    answer = await ask(dispatcher, "EthTraceReplayBlockTransactions", "0x6", ["trace"])
    assert answer["error"]["code"] == -32002


async def _each(traces: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for trace in traces:
        yield trace


async def test_traces_by_transaction_are_only_made_of_the_blocks_own() -> None:
    bench, _ = await _answering()
    ctx = Context(bench.chain.services())
    hashes = ["0x" + f"{at:02x}" * 32 for at in range(2)]
    trace = {"transactionPosition": 1, "transactionHash": hashes[1], "blockHash": "", "blockNumber": 3, "type": "call",
             "result": {"output": "0x07"}}  # fmt: skip
    first, second = await traces_by_transaction(ctx, _each([trace]), hashes)
    assert (first["trace"], first["output"]) == (None, "0x")
    assert (second["trace"], second["output"]) == ([{"type": "call", "result": {"output": "0x07"}}], "0x07")
    for wrong in ({"transactionPosition": 2}, {"transactionHash": hashes[0]}):
        with pytest.raises(Exception, match="not of this block's transactions"):
            await traces_by_transaction(ctx, _each([{**trace, **wrong}]), hashes)


async def test_long_traces_are_parsed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, dispatcher = await _answering()
    tipset = bench.tipsets[3]
    traces = [
        made_trace(tipset, at, action={"from": f"0x{at:040x}", "input": '},{"type":"' + "ab" * at, "value": [{"a": 1}]})
        for at in range(400)
    ]
    await keep_answer(bench.chain.store, tipset.key.cid, TRACES, orjson.dumps(traces))
    monkeypatch.setattr(recorded_traces, "_PART_BYTES", 1000)
    parts = recorded_traces._parts(orjson.dumps(traces))
    assert len(parts) > 50
    assert max(map(len, parts)) < 5000
    assert [trace for part in parts for trace in orjson.loads(part)] == traces
    wanted = {"fromBlock": "0x3", "toBlock": "0x3", "after": "0x18a"}
    assert (await ask(dispatcher, "EthTraceFilter", wanted))["result"] == traces[394:]


@pytest.mark.parametrize("answer", [b"null", b"[]"])
async def test_a_block_without_traces(answer: bytes) -> None:
    bench, dispatcher = await _answering()
    await keep_answer(bench.chain.store, bench.tipsets[3].key.cid, TRACES, answer)
    assert (await ask(dispatcher, "EthTraceFilter", {"fromBlock": "0x3", "toBlock": "0x3"}))["result"] == []
