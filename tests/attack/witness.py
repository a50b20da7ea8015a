"""The client that must notice nothing: `python -m tests.attack.witness PORT SECONDS` prints what it saw as JSON.

It asks `ChainHead` each 10 ms, whether the last answer has come or not, as a stranger among many does; one request in
fifty has a body of 1 MiB.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from tests.attack.wire import WITNESS, Peer, call, post

#: seconds between two requests
PACE = 0.01
#: one request in so many has a large body
LARGE_EVERY = 50
LARGE_BYTES = 1 << 20
#: seconds after which a request counts as failed
TIMEOUT = 20.0


async def watch(port: int, seconds: float) -> dict[str, float | int | list[str]]:
    """Counts, and latencies in seconds: `p50`, `p99`, `worst` of the small ones, `worst_large` of the others."""
    small: list[float] = []
    large: list[float] = []
    failures: list[str] = []
    free: list[Peer] = []
    plain = post(call("Filecoin.ChainHead"))
    padded = post(call("Filecoin.ChainHead").ljust(LARGE_BYTES))

    async def one(request: bytes, took: list[float]) -> None:
        started = time.perf_counter()
        peer = None
        try:
            async with asyncio.timeout(TIMEOUT):
                peer = free.pop() if free else await Peer.connect(port, WITNESS)
                status, body = await peer.ask(request)
        except (OSError, asyncio.IncompleteReadError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            if peer is not None:
                peer.drop()
            return
        took.append(time.perf_counter() - started)
        free.append(peer)
        if status != 200 or b'"result":{"Cids"' not in body:
            failures.append(f"{status} {body[:200]!r}")

    began = time.perf_counter()
    count = round(seconds / PACE)
    tasks = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number * PACE - time.perf_counter()))
        is_large = number % LARGE_EVERY == LARGE_EVERY - 1
        tasks.append(asyncio.create_task(one(padded, large) if is_large else one(plain, small)))
    await asyncio.gather(*tasks)
    for peer in free:
        peer.drop()
    small.sort()
    return {
        "asked": count,
        "failed": len(failures),
        "failures": failures[:3],
        "p50": small[len(small) // 2] if small else TIMEOUT,
        "p99": small[int(len(small) * 0.99)] if small else TIMEOUT,
        "worst": small[-1] if small else TIMEOUT,
        "worst_large": max(large, default=0.0),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(int(sys.argv[1]), float(sys.argv[2])))))
