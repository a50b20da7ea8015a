"""Nodes that lie about what the store lacks: where an answer can be verified, no lie comes through."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from chain.tipset import Tipset
from devnode.faults import Faults
from tests.forwarding.read_through_follower import Follower, follower

#: what nodes say of the chain in JSON: each is verified
HINTS = (
    "Filecoin.ChainGetTipSetAfterHeight", "Filecoin.StateSearchMsg", "Filecoin.EthGetMessageCidByTransactionHash",
)  # fmt: skip
#: epochs below the head that are asked of
DEPTH = 60
#: leaves of an answer that are changed, one at a time
LEAVES = 3


async def questions(one: Follower) -> list[tuple[int, str, list[Any]]]:
    """(API version, method, parameters) about each kind of object below what is held."""
    head = one.node.head
    low, high = head.height - DEPTH, head.height - DEPTH // 2
    node = one.node.index
    logs = await one.ask_honest(1, "eth_getLogs", [{"fromBlock": hex(low), "toBlock": hex(high)}])
    log = logs["result"][-1]
    tipset = await node.at_height(head, int(log["blockNumber"], 16))
    child = await node.at_height(head, tipset.height + 1, previous=False)
    cid = (await one.ask_honest(1, HINTS[2], [log["transactionHash"]]))["result"]
    return [
        (1, "eth_getLogs", [{"fromBlock": hex(low), "toBlock": "latest"}]),
        (1, "eth_getLogs", [{"blockHash": log["blockHash"]}]),
        (1, "eth_getBlockByNumber", [log["blockNumber"], True]),
        (1, "eth_getBlockReceipts", [log["blockNumber"]]),
        (1, "eth_getTransactionReceipt", [log["transactionHash"]]),
        (1, "eth_getTransactionByHash", [log["transactionHash"]]),
        (1, "Filecoin.StateSearchMsg", [[], cid, -1, True]),
        (0, "Filecoin.StateGetReceipt", [cid, []]),
        (1, "Filecoin.ChainGetMessage", [cid]),
        (1, "Filecoin.ChainGetBlockMessages", [{"/": str(tipset.blocks[0].cid)}]),
        (1, "Filecoin.ChainGetParentReceipts", [{"/": str(child.blocks[0].cid)}]),
        (1, "Filecoin.StateGetActor", ["f04", links(tipset)]),
        (1, "Filecoin.GetActorEventsRaw", [{"fromHeight": low, "toHeight": high}]),
        (2, "Filecoin.ChainGetTipSet", [{"height": {"at": 150, "previous": True}}]),
        (2, "Filecoin.StateGetActor", ["f04", {"height": {"at": 150, "previous": True}}]),
    ]


def links(tipset: Tipset) -> list[dict[str, str]]:
    return [{"/": str(cid)} for cid in tipset.key.cids]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts and numbers in a JSON value."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, name))
    elif isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        yield path


def change(value: Any, path: tuple[Any, ...]) -> None:
    """Change one byte of a text, or the last digit of a number."""
    *way, last = path
    for name in way:
        value = value[name]
    old = value[last]
    if isinstance(old, int):
        value[last] = old ^ 1
    else:
        at = len(old) // 2
        value[last] = old[:at] + ("b" if old[at] != "b" else "c") + old[at + 1 :]


def change_one(
    hint: str, liar: str, place: tuple[Any, ...], told: list[str], node: str, method: str, answer: Any
) -> None:
    """Lie about one place of each answer to `hint`."""
    if method == hint and node == liar and answer is not None and place in leaves(answer):
        change(answer, place)
        told.append(node)


def replace(hint: str, liar: str, other: Any, told: list[str], node: str, method: str, answer: Any) -> None:
    """Answer something else to `hint`."""
    if method == hint and node == liar and answer is not None:
        answer.clear()
        answer.update(other)
        told.append(node)


async def test_no_object_that_a_node_changes_comes_through(caplog: pytest.LogCaptureFixture) -> None:
    """Each object that the first node gives has a byte changed: headers, messages, receipts, events, states."""
    async with follower(liars=1, fill_epochs=0, link_epochs=2000) as one:
        asked = await questions(one)
        truth = [await one.ask_honest(version, method, params) for version, method, params in asked]
        assert [answer for answer in truth if "result" not in answer] == []
        lying: Faults = one.liars[0].faults
        honest: Faults = one.node.faults
        # both lie: nothing is answered but what needs no object of theirs
        lying.lie_every = honest.lie_every = 1
        with caplog.at_level(logging.ERROR):
            for (version, method, params), right in zip(asked, truth, strict=True):
                answer = await one.ask(method, *params, version=version)
                assert answer.get("result") in (None, right["result"]), method
                assert answer != right, method
        assert "answered bytes that are not" in caplog.text
        # one of them does not: all is answered
        honest.lie_every = 0
        for (version, method, params), right in zip(asked, truth, strict=True):
            assert (await one.ask(method, *params, version=version)) == right, method
        assert one.read_through.answered > len(asked) // 2


@pytest.mark.parametrize("hint", HINTS)
async def test_no_word_that_a_node_changes_comes_through(hint: str) -> None:
    """A byte of what the first node says is changed, place after place: answers stay right, the lies are counted."""
    async with follower(liars=1, fill_epochs=0) as one:
        asked = await questions(one)
        truth = [await one.ask_honest(version, method, params) for version, method, params in asked]
        liar = one.route.first = one.liars[0].base.removeprefix("http://")
        spoken: list[Any] = []

        def listen(node: str, method: str, answer: Any) -> None:
            if method == hint and answer is not None:
                spoken.append(answer)

        one.route.lie = listen
        users = []
        for (version, method, params), right in zip(asked, truth, strict=True):
            before = len(spoken)
            one.forget()
            assert await one.ask(method, *params, version=version) == right
            if len(spoken) > before:
                users.append((version, method, params, right))
        assert users
        places = list(leaves(spoken[0]))
        lies = 0
        for place in places[:: max(1, len(places) // LEAVES)]:
            told: list[str] = []

            one.route.lie = partial(change_one, hint, liar, place, told)
            for version, method, params, right in users:
                one.forget()
                assert await one.ask(method, *params, version=version) == right, (method, place)
                lies += one.read_through.lies.count
            assert told
        assert lies


async def test_a_true_answer_to_another_question_does_not_come_through() -> None:
    """The first node answers with what belongs to another transaction, message or epoch: whole, and in itself right."""
    async with follower(liars=1, fill_epochs=0, link_epochs=2000) as one:
        head = one.node.head.height
        logs = await one.ask_honest(1, "eth_getLogs", [{"fromBlock": hex(head - 200), "toBlock": hex(head - 20)}])
        hashes = sorted({log["transactionHash"] for log in logs["result"]})[:2]
        cids = [(await one.ask_honest(1, HINTS[2], [digest]))["result"] for digest in hashes]
        places = [(await one.ask_honest(1, HINTS[1], [[], cid, -1, True]))["result"] for cid in cids]
        tipset = (await one.ask_honest(1, HINTS[0], [head - 300, []]))["result"]
        others = {HINTS[0]: tipset, HINTS[1]: places[1], HINTS[2]: cids[1]}
        liar = one.route.first = one.liars[0].base.removeprefix("http://")
        asked = [
            ("eth_getTransactionReceipt", [hashes[0]]),
            ("eth_getTransactionByHash", [hashes[0]]),
            ("Filecoin.StateSearchMsg", [[], cids[0], -1, True]),
            ("eth_getLogs", [{"fromBlock": hex(head - 100), "toBlock": hex(head - 20)}]),
        ]
        truth = [await one.ask_honest(1, method, params) for method, params in asked]
        for hint, other in others.items():
            told: list[str] = []

            one.route.lie = partial(replace, hint, liar, other, told)
            lies = 0
            for (method, params), right in zip(asked, truth, strict=True):
                one.forget()
                assert await one.ask(method, *params) == right, (hint, method)
                lies += one.read_through.lies.count
            assert told and lies, hint
