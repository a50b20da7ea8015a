"""The judge of all caches: the same questions, with every cache and with none, while the chain moves."""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import orjson
import pytest

from devnode.recorded_chain import read_records
from rpc.context import WHOLE_HEAD, Context
from rpc.methods import register_all
from rpc.registry import REGISTRY, Cache, Registry
from rpc.server.answers import kept_answers
from rpc.server.answers.kept_answers import Answers
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.services import Head
from tests.rpc.answers.as_a_client import answer_of
from tests.rpc.answers.moving_chain import MovingChain
from tests.support.recorded import recorded

#: what tells of the process, or takes too long for a test that asks it a hundred times
LEFT_OUT = re.compile(
    r"Filecoin\.(Discover|NodeStatus|StateMarketDeals|ChainBlockstoreInfo|StateListMessages|StateWaitMsg\w*)$|eth_syncing"
)
#: what a node draws anew each time
DRAWN = re.compile(r"asPrice$|PriorityFee|GasEstimate")
#: of all kinds: those that are taken out of a request's bytes, those that are not, and none
IDS: tuple[Any, ...] = (1, 0, 77, -3, 2.5, 10**14, 10**17, "a-b", "é", None)
PATHS = {"/rpc/v0": 0, "/rpc/v1": 1, "/rpc/v2": 2}
Question = tuple[int, str, Any]


def questions(folder: str, rng: random.Random, each: int) -> list[Question]:
    """Some recorded calls of each method."""
    by_method: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst")):
        if not LEFT_OUT.search(record["method"]):
            by_method[record["path"], record["method"]].append(record["params"])
    return [
        (PATHS[path], method, params)
        for (path, method), all_params in sorted(by_method.items())
        for params in rng.sample(all_params, min(each, len(all_params)))
    ]


def questions_near(rng: random.Random, height: int) -> list[Question]:
    """Some about the epochs that a move of the head takes back or adds: few of the recorded calls are about these."""
    found: list[Question] = []
    for _ in range(4):
        epoch = height - rng.randint(1, 14)
        found.append((1, "eth_getBlockByNumber", [hex(epoch), rng.random() < 0.5]))
        found.append((1, "eth_getBlockReceipts", [hex(epoch)]))
        found.append((1, "Filecoin.ChainGetTipSetByHeight", [epoch, None]))
    return found


def body(question: Question, request_id: Any, turned: bool = False) -> bytes:
    """A request's bytes; `turned`: its keys in another order."""
    _, method, params = question
    request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return orjson.dumps(dict(reversed(request.items())) if turned else request)


def cached_and_plain(chain: MovingChain, registry: Registry) -> tuple[Dispatcher, Dispatcher]:
    # many answers are packed for those who take that
    keeps, plain = ServerSettings(gzip_from_bytes=1 << 10), ServerSettings(answer_cache_bytes=0)
    return (
        Dispatcher(chain.serve(cold=False), registry, settings=keeps),
        Dispatcher(chain.serve(cold=True), settings=plain),
    )


def declared(name: str, cache: Cache) -> Registry:
    """The registry, with another declaration of one method."""
    registry = Registry()
    for method in REGISTRY:
        registry.add(replace(method, cache=cache) if method.name == name else method)
    return registry


async def compare_while_moving(
    folder: str, seed: int, steps: int, asked_each: int, *, registry: Registry = REGISTRY, only: str = ""
) -> tuple[int, int]:
    """(questions asked, answers found as bytes); fails at the first answer that is another with caches."""
    register_all()
    rng = random.Random(seed)
    chain = await MovingChain.load(folder)
    pool = [one for one in questions(folder, rng, 6) if re.search(only, one[1])]
    asked_each = min(asked_each, len(pool))
    cached, plain = cached_and_plain(chain, registry)
    at = len(chain.line) - 120
    await chain.move(chain.line[at])
    asked = 0
    recent: list[Question] = []
    for _ in range(steps):
        at, target = chain.next_head(rng, at)
        if target.key != chain.head.key:  # type: ignore[union-attr]
            await chain.move(target)
        near = [one for one in questions_near(rng, target.height) if re.search(only, one[1])]
        fresh = rng.sample(pool, asked_each) + near
        again = rng.sample(recent, min(len(recent), 2 * asked_each))
        recent = (fresh + recent)[: 8 * asked_each]
        for question in (*fresh, *again, *fresh):
            sent = body(question, rng.choice(IDS), rng.random() < 0.3)
            state = rng.getrandbits(64)
            random.seed(state)
            got = await answer_of(cached, question[0], sent, takes_gzip=rng.random() < 0.5)
            random.seed(state)
            _, wanted = await plain.http(question[0], sent)
            assert got == wanted, f"{question} at {target.height} {target.key}\n{got[:600]!r}\n{wanted[:600]!r}"
            asked += 1
    hits = sum(stats.hits for stats in cached.metrics.methods())
    return asked, hits


async def test_answers_are_the_same_with_and_without_caches() -> None:
    asked, hits = await compare_while_moving("devnet", 1, 12, 30)
    assert asked > 1200
    assert hits > asked // 5


@pytest.mark.parametrize(
    ("fault", "only"),
    [
        ("draws lots", "gasPrice"),
        ("heads are not followed", "eth_|ChainHead"),
        ("actors are taken for unchanged", "StateGetActor|WalletBalance|eth_get(Balance|TransactionCount)"),
        ("reorgs are not followed", "eth_get(Block|Tr|Bal|Log)"),
        ("the chain is taken for the request", "eth_get(Block|Tr|Bal|Log)"),
    ],
)
async def test_the_judge_sees_what_is_kept_too_long(fault: str, only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails where a method is declared wrongly, and where the caches do not follow the chain."""
    register_all()
    registry = REGISTRY

    async def nothing_reverted(*_: object) -> int:
        return WHOLE_HEAD

    if fault == "draws lots":
        registry = declared("Filecoin.EthGasPrice", Cache.HEAD)
    elif fault == "heads are not followed":
        monkeypatch.setattr(Answers, "_stands", lambda self, kept: True)
    elif fault == "actors are taken for unchanged":
        monkeypatch.setattr(Answers, "_is_as_seen", lambda self, seen: True)
    elif fault == "reorgs are not followed":
        monkeypatch.setattr(kept_answers, "common_epoch", nothing_reverted)
    else:
        monkeypatch.setattr(Context, "note_chain", lambda self, epoch: None)
    with pytest.raises(AssertionError, match=r" at \d+ "):
        await compare_while_moving("devnet", 3, 60, 40, registry=registry, only=only)


async def some_way_below() -> tuple[MovingChain, int, Dispatcher, Dispatcher]:
    """A chain whose head is 60 tipsets below its last one, that head's place, and methods with caches and without."""
    register_all()
    chain = await MovingChain.load("devnet")
    at = len(chain.line) - 60
    await chain.move(chain.line[at])
    return chain, at, *cached_and_plain(chain, REGISTRY)


async def compare(cached: Dispatcher, plain: Dispatcher, question: Question) -> None:
    sent = body(question, 1)
    wanted = (await plain.http(question[0], sent))[1]
    assert await answer_of(cached, question[0], sent) == wanted, question


async def test_answers_about_an_actor_outlive_the_heads_that_leave_it_alone() -> None:
    """Each method whose answers are functions of one actor is asked again at the next head: few actors change."""
    chain, at, cached, plain = await some_way_below()
    ids = range(100, 107)
    contracts = sorted(
        {
            record["params"][0]
            for record in read_records(recorded("devnet/rpc.jsonl.zst"))
            if record["method"] == "eth_getCode" and len(record.get("result", "")) > 2
        }
    )
    assert contracts
    addresses = [*contracts, *("0xff" + number.to_bytes(19, "big").hex() for number in ids)]
    asked: list[Question] = [(1, "Filecoin.StateGetActor", [f"t0{number}", []]) for number in ids]
    asked += [(1, "Filecoin.WalletBalance", [f"t0{number}"]) for number in ids]
    for tag in ("latest", "safe", "finalized"):
        asked += [(1, f"eth_get{what}", [one, tag]) for one in addresses for what in ("Balance", "TransactionCount")]
        asked += [(1, "eth_getStorageAt", [one, "0x0", tag]) for one in addresses]
        asked += [(1, "eth_getCode", [one, tag]) for one in contracts]
    runs = 0
    for step in range(6):
        for question in asked:
            await compare(cached, plain, question)
        stats = {one.name: one for one in cached.metrics.methods()}
        before, runs = runs, sum(one.misses for one in stats.values())
        if step:
            # those that find the tree of a view or a node of it, and those whose actor has changed
            assert runs - before < len(asked) // 4
        await chain.move(chain.line[at + step + 1])
    assert all(
        stats[name].hits for name in ("Filecoin.EthGetCode", "Filecoin.EthGetStorageAt", "Filecoin.StateGetActor")
    )


async def test_logs_of_executed_epochs_outlive_a_head() -> None:
    """Found or not: those of a closed range and of a block are kept over the next head, those up to it are not."""
    chain, at, cached, plain = await some_way_below()
    nobody = "0x" + "11" * 20
    below = [chain.line[at - back] for back in (300, 40, 1)]
    spans = [{"fromBlock": hex(below[0].height), "toBlock": hex(one.height)} for one in below]
    closed = [*spans, {**spans[1], "address": nobody}, {"blockHash": "0x" + below[1].key.block_hash.hex()}]
    opened = [{"fromBlock": hex(below[1].height)}, {"fromBlock": "latest", "toBlock": "latest"}]
    asked: list[Question] = [(1, "eth_getLogs", [one]) for one in (*closed, *opened)]
    for step in range(4):
        for question in asked:
            await compare(cached, plain, question)
        (stats,) = (one for one in cached.metrics.methods() if one.name == "Filecoin.EthGetLogs")
        assert stats.misses == len(closed) + len(opened) * (step + 1)
        await chain.move(chain.line[at + step + 1])


async def test_an_actor_of_one_call_of_a_batch_says_nothing_of_the_others() -> None:
    chain, at, cached, plain = await some_way_below()
    asked: list[Question] = [
        (1, "Filecoin.StateGetActor", ["t0101", []]), (1, "Filecoin.ChainHead", []), (1, "eth_blockNumber", []),
    ]  # fmt: skip
    for step in range(3):
        await chain.move(chain.line[at + step + 1])
        await cached.http(1, b"[%b]" % b",".join(body(question, 1) for question in asked))
        for question in asked:
            await compare(cached, plain, question)


async def test_calls_that_overtake_each_other_and_the_head_have_the_answers_of_their_own_head() -> None:
    """Many callers at once, over a store whose reads wait, while heads come and go: joined calls among them."""
    register_all()
    rng = random.Random(5)
    chain = await MovingChain.load("devnet")
    pool = [one for one in questions("devnet", rng, 3) if not DRAWN.search(one[1])]
    cached = Dispatcher(chain.serve(cold=True, yielding=rng))
    plain = Dispatcher(chain.serve(cold=False), settings=ServerSettings(answer_cache_bytes=0))
    at = len(chain.line) - 120
    await chain.move(chain.line[at])
    answered: list[tuple[Question, bytes, Head | None, bytes]] = []

    async def ask_some() -> None:
        for question in rng.sample(hot, 12):
            sent = body(question, rng.choice(IDS))
            ctx = cached.context(question[0])
            _, answer = await cached.http(question[0], sent, ctx)
            answered.append((question, sent, ctx.pinned, answer))

    for _ in range(12):
        hot = rng.sample(pool, 12)
        callers = [asyncio.create_task(ask_some()) for _ in range(8)]
        while not all(caller.done() for caller in callers):
            for _ in range(rng.randint(1, 30)):
                await asyncio.sleep(0)
            at, target = chain.next_head(rng, at)
            if target.key != chain.head.key:  # type: ignore[union-attr]
                await chain.move(target)
        await asyncio.gather(*callers)
    joined = sum(stats.joined for stats in cached.metrics.methods())
    assert joined > 50
    for question, sent, head, got in answered:
        ctx = plain.context(question[0])
        ctx.pinned = head
        _, wanted = await plain.http(question[0], sent, ctx)
        assert got == wanted, f"{question} {head and head.tipset.height}\n{got[:600]!r}\n{wanted[:600]!r}"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_answers_are_the_same_for_long(folder: str, seed: int) -> None:
    asked, hits = await compare_while_moving(folder, 100 + seed, 150, 60)
    assert hits > asked // 5
