"""What `lotus info`, `lotus status` and `lotus sync wait` read of a follower; the methods that only a node has."""

from __future__ import annotations

import pytest

from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from rpc.methods.node.status import go_time
from rpc.registry import REGISTRY, V0, V1
from rpc.server.dispatch import Dispatcher
from tests.support.made_chain import ask

SMALL = SimSettings(accounts=12, miners=4, miner_updates=0, messages=0, null_rate=0.0)
#: served under both paths by Lotus, whose v0 has all of v1
BOTH = (
    "StateEncodeParams", "StateGetAllocationIdForPendingDeal", "StateGetBeaconEntry",
    "StateGetRandomnessDigestFromBeacon", "StateGetRandomnessDigestFromTickets", "StateMarketProposalPending",
    "StateMinerAllocated", "StateMinerCreationDeposit", "StateMinerInitialPledgeForSector",
)  # fmt: skip
#: of v1 that take another form under v0
OTHER_FORM = {"StateSearchMsg", "StateWaitMsg", "StateSectorPreCommitInfo"}


async def made(epochs: int) -> tuple[SimulatedNode, Dispatcher]:
    node = SimulatedNode(SMALL)
    await node.prepare()
    for number in range(epochs):
        await node.extend(nulls=number % 7 == 3, blocks=1 + number % 2)
    return node, Dispatcher(node._services)


async def test_the_sync_is_complete_and_ends_at_the_head() -> None:
    node, dispatcher = await made(3)
    state = (await ask(dispatcher, "SyncState"))["result"]
    (sync,) = state["ActiveSyncs"]
    assert sync["Target"] == (await ask(dispatcher, "ChainHead"))["result"]
    assert sync["Base"]["Height"] == node.head.height - 1
    assert (sync["Stage"], sync["Height"]) == (4, node.head.height)
    assert sync["Start"] == go_time(node.head.blocks[0].timestamp)


async def test_status_counts_blocks_of_the_newest_tipsets() -> None:
    node, dispatcher = await made(910)
    for with_chain in (False, True):
        status = (await ask(dispatcher, "NodeStatus", with_chain))["result"]
        assert status["SyncStatus"]["Epoch"] == node.head.height
        assert status["PeerStatus"] == {"PeersToPublishMsgs": 0, "PeersToPublishBlocks": 0}
        counts = []
        tipset = node.head
        for _ in range(900):
            counts.append(len(tipset.blocks))
            tipset = await node.index.parent(tipset)
        wanted = (sum(counts[:100]) / 100, sum(counts) / 900) if with_chain else (0, 0)
        assert tuple(status["ChainStatus"].values()) == wanted
    started = (await ask(dispatcher, "StartTime"))["result"]
    assert started == go_time(node._services.started_at)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_700_000_000.25, "2023-11-14T22:13:20.25Z"), (1.5, "1970-01-01T00:00:01.5Z")],
)
def test_times_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_time(seconds) == text


@pytest.mark.parametrize("name", ["ID", "NetPeers", "NetBandwidthStats", "AuthNew", "LogList", "Session", "Closing"])
async def test_what_only_a_node_has_is_known_and_not_served(name: str) -> None:
    _, dispatcher = await made(0)
    for version in (0, 1):
        answer = await ask(dispatcher, name, version=version)
        assert answer["error"]["code"] == -32004
        assert "known, but not served" in answer["error"]["message"]


async def test_v0_has_what_v1_has() -> None:
    v0, v1 = REGISTRY.names(V0), REGISTRY.names(V1)
    assert {f"Filecoin.{name}" for name in BOTH} <= set(v0)
    assert set(v1) <= set(v0)
    assert {method.field for name, method in v1.items() if v0[name] is not method} == OTHER_FORM


async def test_the_version_stands_once_in_the_client_version() -> None:
    node, dispatcher = await made(0)
    text = (await ask(dispatcher, "Web3ClientVersion"))["result"]
    assert text.startswith("simulated/")
    node._services.agent = "lotus-follower/1.2.3"
    dispatcher = Dispatcher(node._services)
    assert (await ask(dispatcher, "Web3ClientVersion"))["result"] == "lotus-follower/1.2.3"
