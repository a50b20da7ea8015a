"""What is not held is named, and that a full node would have it: without a node, with one that is down or lacks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from blockstore.cid import Cid, cid_of
from chain.address import from_id
from chain.ipld.objects import Fetch, Objects
from chain.message import Message
from chain.tipset import TipsetKey
from follower.lazy_objects import node_sources
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.methods import register_all
from rpc.missing_objects import is_named
from rpc.node_errors import CallFailed, NodeUnavailable
from rpc.server.dispatch import Dispatcher
from tests.support.made_chain import MadeChain, ask, link, links

GONE = cid_of(b"gone")


class Node(NodeClient):
    """A node that is down, or that lacks every object."""

    def __init__(self, is_down: bool) -> None:
        super().__init__(parse_node_info("http://127.0.0.1:1")[0])
        self.is_down = is_down

    async def read_objects(self, cids: Sequence[Cid], *, timeout: float | None = None) -> list[bytes | CallFailed]:
        if self.is_down:
            raise NodeUnavailable("127.0.0.1:1: refused")
        return [CallFailed(1, "blockstore get: ipld: could not find it")] * len(cids)


async def dispatcher_over(fetch: Fetch | None) -> tuple[MadeChain, Dispatcher]:
    """A chain whose state and receipts are not held."""
    register_all()
    chain = MadeChain()
    message = Message(0, bytes(from_id(100)), bytes(from_id(101)), 0, 0, 1000, 1, 1, 0, b"")
    line = [await chain.add(None, 0)]
    for height in (1, 2, 3):
        line.append(await chain.add(line[-1], height, [((message,), ())], receipts=GONE, state=GONE))
    chain.log.publish((), line)
    services = chain.services()
    return chain, Dispatcher(replace(services, objects=Objects(chain.store, fetch=fetch)))


CASES = [
    (None, 1, f"object {GONE}; a full node would have it"),
    (node_sources([Node(False)], 10).read, 1, f"object {GONE}, and no full node that was asked has it"),
    (node_sources([Node(True)], 10).read, -32002,
     f"object {GONE}; a full node would have it, but cannot be asked now: 127.0.0.1:1: refused"),
]  # fmt: skip


@pytest.mark.parametrize(("fetch", "code", "text"), CASES)
async def test_state_that_is_not_held(fetch: Fetch | None, code: int, text: str) -> None:
    _, dispatcher = await dispatcher_over(fetch)
    for method, params in (
        ("StateGetActor", ["t0100", []]),
        ("EthGetBalance", ["0xff" + "00" * 18 + "64", "latest"]),
    ):
        error = (await ask(dispatcher, method, *params))["error"]
        assert (error["code"], error["message"]) == (code, f"not held: {text}")


@pytest.mark.parametrize(("fetch", "code", "text"), CASES)
async def test_receipts_that_are_not_held(fetch: Fetch | None, code: int, text: str) -> None:
    _, dispatcher = await dispatcher_over(fetch)
    for method, params in (("EthGetBlockReceipts", ["0x2"]), ("EthGetLogs", [{"fromBlock": "0x2"}])):
        error = (await ask(dispatcher, method, *params))["error"]
        assert error["code"] == code
        assert error["message"].startswith("not held: ")
        assert text in error["message"]


async def test_an_object_that_the_client_names_is_not_found_as_at_the_node() -> None:
    chain, dispatcher = await dispatcher_over(None)
    head = (await chain.log.current()).tipset
    for method, params, text in (
        ("ChainReadObj", [link(GONE)], f"blockstore get: ipld: could not find {GONE}"),
        ("ChainGetBlock", [link(GONE)], f"ipld: could not find {GONE}"),
        ("StateGetActor", ["t0100", [link(GONE)]], f"ipld: could not find {GONE}"),
        ("StateGetActor", ["t0100", links(head.key)], f"not held: object {GONE}; a full node would have it"),
    ):
        assert (await ask(dispatcher, method, *params))["error"]["message"] == text


def test_what_names_an_object() -> None:
    key = TipsetKey.of([GONE, cid_of(b"other")])
    for value in (GONE, [1, GONE], {"a": [GONE]}, key, [key], {"/": str(GONE)}, [f"{GONE}/1"]):
        assert is_named(value, GONE)
    assert is_named(GONE, GONE.multihash)
    for value in (cid_of(b"other"), TipsetKey.of([cid_of(b"other")]), Cid(b""), None, 7, "", b"gone", [], {}):
        assert not is_named(value, GONE)
