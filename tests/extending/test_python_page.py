"""The examples of docs/python.md, run over a recorded chain; and what they print is right."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import follower
from blockstore.cid import parse
from blockstore.errors import StoreUnavailable
from chain.errors import NotHeld
from follower.extending.chain import CallFailed, Chain
from tests.support.paths import ROOT
from tests.support.processes import run_follower
from tests.support.recorded import recorded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"lmdb://{tmp_path_factory.mktemp('python')}/store"
    chain = recorded("devnet/chain.car.zst")
    done = run_follower("import", str(chain), "--store", url, "--network-file", str(chain.parent / "network.json"))
    assert done.returncode == 0, done.stderr
    return url


async def test_the_examples_run(store: str) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    first, *rest = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(rest) >= 4
    body = first + "".join(textwrap.indent(block, "    ") for block in rest)
    program = "async def example(STORE):\n" + textwrap.indent(body, "    ") + "    return locals()\n"
    names: dict[str, Any] = {}
    exec(compile(program, "docs/python.md", "exec"), names)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        found = await names["example"](store)
    assert found["at_1000"].height <= 1000
    assert [tipset.height for tipset in [found["tipset"]]] == [found["at_1000"].height]
    assert found["state"].kind == "storagepower"
    assert found["state"].state["MinerCount"] == 2
    assert len(found["messages"]) == len(found["receipts"])
    assert parse(found["tipset_json"]["Cids"][0]["/"]) == found["head"].blocks[0].cid
    assert str(found["head"].height) in told.getvalue()


@pytest.fixture
async def chain(store: str) -> AsyncIterator[Chain]:
    async with follower.open(store) as opened:
        yield opened


async def test_it_answers_as_the_methods_do(chain: Chain) -> None:
    """Over 150 tipsets: messages, receipts and events by `Chain` and by JSON-RPC."""
    events = 0
    walked = [tipset async for tipset in chain.tipsets(800, 1000)]
    assert [tipset.parents for tipset in walked[1:]] == [tipset.key for tipset in walked[:-1]]
    for tipset in walked:
        key = [{"/": str(block.cid)} for block in tipset.blocks]
        messages = await chain.call("Filecoin.ChainGetMessagesInTipset", key)
        assert [one["Cid"]["/"] for one in messages or []] == [str(one.cid) for one in await chain.messages(tipset)]
        events += len(await chain.events(tipset))
    counted = await chain.call("eth_getLogs", {"fromBlock": hex(walked[0].height), "toBlock": hex(walked[-1].height)})
    assert 0 < len(counted) <= events
    actor = await chain.actor("f04", at=walked[0])
    key = [{"/": str(block.cid)} for block in walked[0].blocks]
    answered = await chain.call("Filecoin.StateGetActor", "f04", key)
    assert answered["Balance"] == str(actor.balance)
    assert answered["Head"]["/"] == str(actor.head)


async def test_what_is_not_there_is_an_error(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(NotHeld):
        await chain.receipts(await chain.head())
    with pytest.raises(ValueError, match="is not between 0 and"):
        await chain.tipset_at(10**9)
    with pytest.raises(CallFailed) as raised:
        await chain.call("Filecoin.NoSuchMethod")
    assert raised.value.code == -32601
    with pytest.raises(StoreUnavailable, match="has not been made yet"):
        async with follower.open(f"lmdb://{tmp_path}/none"):
            pass


async def test_nothing_can_be_written(chain: Chain) -> None:
    with pytest.raises(StoreUnavailable):
        await chain.store.put_many([(b"\x12\x20" + bytes(32), b"x")], closed=False)
