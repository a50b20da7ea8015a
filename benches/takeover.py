"""How long a fleet has no new head when its leading bridge is killed: the standby's first head, published and served.

    python -m benches.takeover [--times 6] [--nodes 1|3] [--rate 400]

On Cassandra nodes that are started here; followers, bridges, HAProxy and clients share this machine with them. The
leader is killed again and again, each time at another moment of its renewals; a new standby takes its place.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from tests.fleet.fleet import LEASE, Clients, Fleet
from tests.support.cassandra.server import ClusterOfThree, cassandra_hosts


async def kill(fleet: Fleet, clients: Clients) -> tuple[float, float]:
    """Seconds from the leader's death until another one's first head is published, and until a client has seen it."""
    loop = asyncio.get_running_loop()
    leader = next(one for one in fleet.bridges if one.process.poll() is None)
    leader.kill()
    began = loop.time()
    seq = await fleet.first_head_of_another_term()
    published = loop.time() - began
    async with asyncio.timeout(60):
        while max(clients.report.heads) < seq:
            await asyncio.sleep(0.01)
    return published, loop.time() - began


async def run(hosts: str, copies: int, times: int, rate: float) -> None:
    """Kill so many leaders, one after another."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as made:
        url = f"cassandra://{hosts}/bench_takeover"
        async with (
            Fleet(Path(made), url, replication=copies) as fleet,
            Clients(fleet.proxy.port, fleet.truth, rate=rate).asking() as clients,
        ):
            taken = []
            for _ in range(times):
                await asyncio.sleep(2 + random.random())
                taken.append(await kill(fleet, clients))
                published, served = taken[-1]
                print(f"published after {published:.2f} s, served after {served:.2f} s", flush=True)
                await fleet.bridge().says("standing by")
        for name, at in (("published", 0), ("served", 1)):
            most = max(one[at] for one in taken)
            print(f"{name}: at most {most:.2f} s, {most / LEASE:.2f} lease times", flush=True)
        print(clients.report.text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=6, help="leaders that are killed (default 6)")
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1, help="Cassandra nodes and copies (default 1)")
    parser.add_argument("--rate", type=float, default=0, help="requests a second of all clients (default: all)")
    args = parser.parse_args()
    if args.nodes == 1:
        asyncio.run(run(cassandra_hosts(), 1, args.times, args.rate))
        return
    cluster = ClusterOfThree()
    try:
        asyncio.run(run(cluster.hosts, 3, args.times, args.rate))
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
