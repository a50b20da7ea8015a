"""The whole fleet behind HAProxy: whatever is killed, added or set wrong, the head that clients see never goes back,
no request fails, and no answer mixes two heads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet import LEASE, Clients, Fleet
from tests.support.cassandra.server import ClusterOfThree
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.proxies import required

DELTA, EPSILON = 500, 50


def judge(report, least_heads: int) -> None:  # type: ignore[no-untyped-def]
    print(report.text)
    assert not report.failed, report.failed.most_common(3)
    assert not report.back, report.back[:5]
    assert not report.mixed, report.mixed.most_common(3)
    assert len(report.heads) >= least_heads


async def steady(fleet: Fleet, requests: int) -> None:
    """Nothing happens but heads."""
    async with Clients(fleet.proxy.port, fleet.truth).asking() as clients:
        await clients.until(requests)
    judge(clients.report, 10)
    assert await fleet.check_actors() >= 10
    await fleet.check_log(clients.report.heads)


async def troubled(fleet: Fleet, requests: int, cluster: ClusterOfThree | None) -> None:
    """One trouble after another, each with its share of the requests before the next."""
    # all of them early: the recording ends after six minutes, and a busy machine may take longer
    share = min(requests // 6, 8_000)
    async with Clients(fleet.proxy.port, fleet.truth).asking() as clients:
        heads = clients.report.heads

        async def new_heads(count: int) -> None:
            wanted = max(heads) + count
            async with asyncio.timeout(60):
                while max(heads) < wanted:
                    await asyncio.sleep(0.05)

        await clients.more(share)
        fleet.followers[0].kill()
        await clients.more(share)
        fleet.follower()
        await fleet.ready(fleet.ports[-1])
        await fleet.named(fleet.ports[1:], gone=fleet.ports[0])
        await clients.more(share)
        # two clocks that are further apart than either from the store's, within epsilon all the same
        fleet.followers[1].skew.set(EPSILON // 2 - 4)
        fleet.followers[2].skew.set(-EPSILON // 2 + 4)
        await clients.more(share)
        fleet.bridges[0].kill()
        began = asyncio.get_running_loop().time()
        published = await fleet.first_head_of_another_term()
        took = asyncio.get_running_loop().time() - began
        async with asyncio.timeout(60):
            while max(heads) < published:
                await asyncio.sleep(0.02)
        served = asyncio.get_running_loop().time() - began
        print(f"leader killed: the standby's first head is published after {took:.1f} s, served after {served:.1f} s;")
        print(f"that is {took / LEASE:.1f} and {served / LEASE:.1f} lease times")
        await new_heads(3)
        await clients.more(share)
        if cluster is not None:
            cluster.nodes[2].kill()
            await new_heads(3)
        await clients.until(requests)
    judge(clients.report, 10)
    assert await fleet.check_actors() >= 10
    await fleet.check_log(clients.report.heads)

    # beyond epsilon: found, said, and taken out of service
    fleet.followers[1].skew.set(EPSILON * 6)
    told = await fleet.ready(fleet.ports[1], False)
    assert "clock" in told
    assert f"epsilon is {EPSILON} ms" in told
    await fleet.followers[1].says("out of service: the store's clock is")
    fleet.followers[1].skew.set(0)
    await fleet.ready(fleet.ports[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOfThree]:
    made = ClusterOfThree()
    yield made
    made.stop()


async def one_node() -> str:
    url = keyspace_url("follower_fleet")
    await (await emptied(url, delta_ms=DELTA, epsilon_ms=EPSILON, every=True)).close()
    return url


@pytest.mark.recorded
async def test_a_short_run_with_every_trouble_of_ours(tmp_path: Path) -> None:
    required("haproxy")
    async with Fleet(tmp_path, await one_node(), delta_ms=DELTA, epsilon_ms=EPSILON) as fleet:
        await troubled(fleet, 9_000, None)


@pytest.mark.recorded
@pytest.mark.long
async def test_without_a_leader_every_follower_is_behind_and_none_is_down(tmp_path: Path) -> None:
    required("haproxy")
    url = await one_node()
    async with Fleet(tmp_path, url, delta_ms=DELTA, epsilon_ms=EPSILON, ready_lag=15) as fleet:
        async with Clients(fleet.proxy.port, fleet.truth).asking() as clients:
            await clients.more(300)
            for bridge in fleet.bridges:
                bridge.kill()
            for port in fleet.ports:
                assert "epochs behind the node" in await fleet.ready(port, False)
            # until HAProxy has seen it too
            async with asyncio.timeout(60):
                while "backend followers has no server available" not in fleet.proxy.log():
                    await asyncio.sleep(0.05)
            await clients.more(1_000)
            fleet.bridge()
            for port in fleet.ports:
                await fleet.ready(port)
            await clients.more(300)
        judge(clients.report, 3)


@pytest.mark.recorded
@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_200_000_requests(tmp_path: Path, cluster: ClusterOfThree) -> None:
    required("haproxy")
    url = f"cassandra://{cluster.hosts}/steady"
    async with Fleet(tmp_path, url, replication=3, delta_ms=DELTA, epsilon_ms=EPSILON) as fleet:
        await steady(fleet, 200_000)


@pytest.mark.recorded
@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_200_000_requests_with_every_trouble(tmp_path: Path, cluster: ClusterOfThree) -> None:
    required("haproxy")
    url = f"cassandra://{cluster.hosts}/troubled"
    async with Fleet(tmp_path, url, replication=3, delta_ms=DELTA, epsilon_ms=EPSILON) as fleet:
        await troubled(fleet, 200_000, cluster)
