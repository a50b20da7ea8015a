"""What idle followers of a shared store cost: processor time of a follower's head reads, and of the server.

    python -m benches.head_reads [--followers 8] [--seconds 20] [--entries 500]

On a Cassandra that is started here. A leader renews its lease and publishes a head now and then, as a bridge does. The
server's own idling is measured before, and taken off; the compiler of its virtual machine is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from blockstore.cassandra.store import CassandraStore
from blockstore.store import HeadEntry, TipsetRef
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from follower.shared_store_heads import SharedStoreHeads
from tests.support.cassandra.server import own_node

DELTA, EPSILON = 500, 50
#: a lease of 10 s is renewed each 2.5 s
RENEW, HEAD = 2.5, 30.0


def entry(seq: int, term: int) -> HeadEntry:
    """A head of five blocks."""
    ref = TipsetRef(seq, seq.to_bytes(38, "big") * 5)
    return HeadEntry(seq, term, (), (ref,), ref)


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a server has used, without those of its virtual machine's compiler.

    The compiler works for minutes after a start: what it takes in a short measurement is chance.
    """
    ticks = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, fields = (thread / "stat").read_text().partition("(")[2].rpartition(")")
            if "Compiler" not in name:
                ticks += sum(int(field) for field in fields.split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measured(pid: int, seconds: float) -> tuple[float, float]:
    """(our, the server's) milliseconds of processor time a second, over so long."""
    ours, servers, began = time.process_time(), cpu_of(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    return (time.process_time() - ours) * 1000 / passed, (cpu_of(pid) - servers) * 1000 / passed


async def leading(store: CassandraStore, term: int, seq: int) -> None:
    """What a bridge asks of the head log."""
    due = time.monotonic() + HEAD
    for renewals in range(1, 1 << 30):
        await store.renew_lease(term, renewals)
        if time.monotonic() >= due:
            due += HEAD
            seq += 1
            await store.append_head(entry(seq, term))
        await asyncio.sleep(RENEW)


async def run(pid: int, url: str, followers: int, seconds: float, entries: int) -> None:
    store = await CassandraStore.open(url, delta_ms=50, epsilon_ms=5)
    term = await store.new_term("bench")
    for seq in range(1, entries + 1):
        await store.append_head(entry(seq, term))
    await store.trim_head_log(entries // 2)
    lead = asyncio.create_task(leading(store, term, entries))
    # the compiler of the server's virtual machine has its work done
    await asyncio.sleep(5)
    ours, servers = await measured(pid, seconds)
    print(f"no follower: {ours:.1f} ms/s of ours, {servers:.1f} ms/s of the server", flush=True)
    reading: list[tuple[CassandraStore, SharedStoreHeads]] = []
    for _ in range(followers):
        one = await CassandraStore.open(url, readonly=True, delta_ms=DELTA, epsilon_ms=EPSILON)
        heads = SharedStoreHeads(one, ChainIndex(one, Objects(one)), DELTA, EPSILON)
        heads.start()
        reading.append((one, heads))
    await warm(reading[0][0].head_tail)
    await asyncio.sleep(5)
    more, most = await measured(pid, seconds)
    print(
        f"{followers} followers: {more:.1f} ms/s of ours, {most:.1f} ms/s of the server; each costs "
        f"{(more - ours) / followers:.2f} ms/s of its own, {(most - servers) / followers:.2f} ms/s of the server",
        flush=True,
    )
    lead.cancel()
    await asyncio.gather(lead, return_exceptions=True)
    for one, heads in reading:
        await heads.close()
        await one.close()
    await store.close()


async def warm(read: Callable[[], Awaitable[object]]) -> None:
    """Read until the server has compiled what reading takes."""
    for _ in range(20_000 // 64):
        await asyncio.gather(*(read() for _ in range(64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--followers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--entries", type=int, default=500)
    arguments = parser.parse_args()
    with own_node() as node:
        assert node.process is not None
        url = f"cassandra://127.0.0.1:{node.port}/bench_heads"
        asyncio.run(run(node.process.pid, url, arguments.followers, arguments.seconds, arguments.entries))


if __name__ == "__main__":
    main()
