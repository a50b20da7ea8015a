"""What is final stays final, whatever F3 and the bridge's node do: late, failing and old certificates, and reorgs."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import orjson
import pytest

from blockstore.cid import Cid
from blockstore.store import RECORDED, Batch
from chain.index.recorded_answers import F3_CERTIFICATE
from chain.tipset import Tipset
from leader_bridge.store.recorder import Recorder
from rpc.context import Context
from rpc.errors import METHOD_NOT_FOUND
from rpc.lookup import finality
from rpc.lookup.finality import ec_finality, f3_finalized, finalized_tipset
from rpc.methods import register_all
from rpc.node_errors import CallFailed, NodeTimeout
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.support.made_chain import MadeChain, ask


def certificate(instance: int, final: Tipset) -> dict[str, Any]:
    """As `F3GetLatestCertificate` answers it, as far as it matters here."""
    key = base64.b64encode(bytes(final.key)).decode()
    return {"GPBFTInstance": instance, "ECChain": [{"Epoch": final.height, "Key": key}]}


class F3Node:
    """A node that answers at once, with an error, late (when the test says so), or with an old certificate."""

    name = "made up"

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.next: Any = "now"
        self.late: asyncio.Future[Any] | None = None

    async def call(self, method: str, *params: Any) -> Any:
        if isinstance(self.next, Exception):
            raise self.next
        if self.next == "late":
            self.late = asyncio.get_running_loop().create_future()
            return await self.late
        if not self.answers:
            return None
        return self.answers[-1] if self.next == "now" else random.Random(len(self.answers)).choice(self.answers)

    def answer_late(self) -> None:
        if self.late is not None and not self.late.done():
            self.late.set_result(self.answers[-1] if self.answers else None)


async def final_at(services: Services) -> Tipset:
    return await finalized_tipset(Context(services))


FAULTS = ["now", "late", "old", CallFailed(10, "F3 is not ready"), NodeTimeout("no answer")]


@pytest.mark.parametrize("seed", range(12))
async def test_finality_never_goes_back(seed: int) -> None:
    rng = random.Random(seed)
    chain = MadeChain()
    node = F3Node()
    recorder = Recorder(chain.store, publish_wait_seconds=0.0, retry_seconds=0.0)
    recorder.begin(node)  # type: ignore[arg-type]
    line = [await chain.add(None, 0)]
    chain.log.publish((), line)
    follower = chain.services()
    before: Cid | None = None
    final, newest = line[0], 0
    for step in range(80):
        reverted: list[Tipset] = []
        if rng.random() < 0.3:
            # a reorg, above what F3 has finalized, whether that is recorded already or not
            while line[-1].height > max(final.height, newest) and len(line) > 1 and rng.random() < 0.7:
                reverted.append(line.pop())
        applied: list[Tipset] = []
        for _ in range(rng.randint(1, 3)):
            line.append(await chain.add(line[-1], line[-1].height + rng.randint(1, 2), salt=step))
            applied.append(line[-1])
        later = [one for one in line[-6:-1] if one.height > newest]
        if later and rng.random() < 0.5:
            # F3 makes progress on the chain of the head
            certified = rng.choice(later)
            newest = certified.height
            node.answers.append(certificate(len(node.answers), certified))
        if rng.random() < 0.15:
            # another leader, or another connection
            recorder.stop()
            recorder = Recorder(chain.store, publish_wait_seconds=0.0, retry_seconds=0.0)
            recorder.begin(node)  # type: ignore[arg-type]
        node.next = rng.choice(FAULTS)
        recorder.ask()
        if rng.random() < 0.5:
            node.answer_late()
        await recorder.keep(line[-1].key.cid, before)
        before = line[-1].key.cid
        chain.log.publish(reverted, applied)
        seen = await final_at(follower)
        assert seen.height >= final.height
        assert final in line
        # a follower that was started just now says the same
        assert seen == await final_at(chain.services())
        final = seen
    recorder.stop()
    assert final.height > 0


async def lone_certificate(chain: MadeChain, beside: Tipset, final: Tipset, instance: int = 1) -> None:
    batch = Batch()
    batch.put(RECORDED, beside.key.cid, F3_CERTIFICATE, orjson.dumps(certificate(instance, final)))
    await chain.store.write(batch)


async def made_line(count: int) -> tuple[MadeChain, list[Tipset]]:
    chain = MadeChain()
    line = [await chain.add(None, 0)]
    for height in range(1, count):
        line.append(await chain.add(line[-1], height))
    chain.log.publish((), line)
    return chain, line


async def test_a_certificate_beside_an_ancestor_holds() -> None:
    chain, line = await made_line(300)
    await lone_certificate(chain, line[40], line[38])
    await lone_certificate(chain, line[30], line[28])
    assert await final_at(chain.services()) == line[38]


async def test_a_certificate_of_another_chain_does_not() -> None:
    chain, line = await made_line(20)
    other = await chain.add(line[10], 11, salt=9)
    await lone_certificate(chain, line[15], line[9])
    await lone_certificate(chain, line[19], other, instance=2)
    assert await final_at(chain.services()) == line[9]


async def test_a_head_that_comes_back_tells_its_newer_certificate() -> None:
    chain, line = await made_line(20)
    services = chain.services()
    assert (await final_at(services)).height == 0
    fork = await chain.add(line[18], 19, salt=5)
    chain.log.publish([line[19]], [fork])
    await lone_certificate(chain, fork, line[15])
    assert await final_at(services) == line[15]
    await lone_certificate(chain, line[19], line[17], instance=2)
    chain.log.publish([fork], [line[19]])
    assert await final_at(services) == line[17]


async def test_a_failed_computation_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    register_all()
    chain, _ = await made_line(20)
    services = chain.services()

    async def broken(*_: object) -> None:
        raise OSError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(finality, "blocks_by_epoch", broken)
        with pytest.raises(OSError, match="away"):
            await ec_finality(Context(services))
    assert (await ec_finality(Context(services))).depth == -1
    answer = await ask(Dispatcher(services), "ChainGetTipSetFinalityStatus", version=2)
    assert answer["result"]["ecFinalityThresholdDepth"] == -1


async def test_a_certificate_whose_tipset_comes_later_counts_then() -> None:
    chain, line = await made_line(20)
    await lone_certificate(chain, line[19], line[15])
    services = chain.services()
    (block,) = line[15].blocks
    raw = await chain.store.get(block.cid.multihash)
    assert raw is not None
    del chain.store._objects[block.cid.multihash]
    assert await f3_finalized(Context(services), 1) is None
    await chain.store.put_many([(block.cid.multihash, raw)], closed=True)
    assert await f3_finalized(Context(services), 1) == line[15]


async def test_only_a_missing_method_is_never_asked_for_again() -> None:
    chain, line = await made_line(3)
    for code, times in ((METHOD_NOT_FOUND, 1), (10, 3), (4, 3)):
        node = F3Node()
        node.next = CallFailed(code, "no")
        asked = []
        call = node.call

        async def counted(method: str, *params: Any, call: Any = call, asked: list[str] = asked) -> Any:
            asked.append(method)
            return await call(method, *params)

        node.call = counted  # type: ignore[method-assign]
        recorder = Recorder(chain.store, retry_seconds=0.0)
        recorder.begin(node)  # type: ignore[arg-type]
        for tipset in line:
            recorder.ask()
            await recorder.keep(tipset.key.cid)
        assert len(asked) == times, code
