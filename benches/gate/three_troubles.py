"""`python -m benches.gate.three_troubles`: forwarded reads while full nodes are dead, slow, behind, or all of these.

Three played nodes in this process, a follower's dispatcher over them, 16 clients. A node's execution takes either 5 ms,
or as long as `eth_call` took a recorded Lotus under the load of 32 clients (median 67.5 ms, 99 % below 302.8 ms; a
log-normal distribution with these two values). The slow node adds 200 ms to every answer. Each read is judged: a failed
one, or one of another head, ends the benchmark with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from chain.tipset import Tipset
from follower.worker import tune_garbage_collector
from tests.forwarding.nodes import EXECUTION_SECONDS, Fleet, fleet, in_parallel, percentile

#: seconds: the median of `eth_call` at a recorded Lotus, and what 99 % of the calls stay below
_MEDIAN: Final = 0.0675
_P99: Final = 0.3028
#: standard deviations above the mean below which 99 % of a normal distribution lie
_DEVIATIONS_OF_P99: Final = 2.326
_SLOW_SECONDS: Final = 0.2
_BEHIND: Final = 5
_CLIENTS: Final = 16
_LEARNING_READS: Final = 64


@dataclass(frozen=True, slots=True)
class Trouble:
    """Which of the three nodes is dead, which slow (-1: none), and how many head changes the last one is behind."""

    name: str
    dead: int = -1
    slow: int = -1
    behind: int = 0


TROUBLES: Final = (
    Trouble("three healthy nodes"),
    Trouble("one dead", dead=0),
    Trouble("one slow", slow=1),
    Trouble("one behind", behind=_BEHIND),
    Trouble("one dead, one slow, one behind", dead=0, slow=1, behind=_BEHIND),
)


def as_recorded(chance: random.Random) -> Callable[[], float]:
    """Seconds of one execution, as the recorded node took them."""
    deviation = math.log(_P99 / _MEDIAN) / _DEVIATIONS_OF_P99
    return lambda: chance.lognormvariate(math.log(_MEDIAN), deviation)


async def measure(trouble: Trouble, reads: int, seconds: Callable[[], float], epochs_back: int) -> list[float]:
    """The seconds of each read; every one asks something else. Errors: AssertionError (failed, or of another head)."""
    async with fleet(lag=(0, 0, trouble.behind)) as one:
        for behind in one.behind:
            behind.execution_seconds = seconds
        if trouble.dead >= 0:
            await one.nodes[trouble.dead].stop()
        if trouble.slow >= 0:
            one.nodes[trouble.slow].faults.delay_seconds = _SLOW_SECONDS
        at = await one.nodes[2].index.at_height(one.head, one.head.height - epochs_back) if epochs_back else None
        tune_garbage_collector()
        watching = asyncio.create_task(one.route.watch(0.2))
        try:
            # what a process learns in its first second
            await in_parallel(lambda number: execute(one, 1_000_000 + number, at), _LEARNING_READS, _CLIENTS)
            took = await in_parallel(lambda number: execute(one, number, at), reads, _CLIENTS)
        finally:
            watching.cancel()
        assert not one.failed, one.failed[0]
        assert not one.wrong, one.wrong[0]
        return took


def execute(one: Fleet, number: int, at: Tipset | None) -> Awaitable[float]:
    """One execution that nobody has asked for before; its seconds."""
    return one.read(2 * number + 1, at)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked: executions of so many epochs before the head."""

    name: str
    epochs_back: int
    seconds: Callable[[], float]


async def run(reads: int, seed: int, only: str) -> int:
    """Print a table of the kinds whose name has `only` in it. Exit code 1 where a read failed or was wrong."""
    recorded = as_recorded(random.Random(seed))
    kinds = (
        Kind("at the head, times as recorded", 0, recorded),
        Kind("40 epochs before the head, times as recorded", 40, recorded),
        Kind(f"at the head, {EXECUTION_SECONDS * 1e3:.0f} ms each", 0, lambda: EXECUTION_SECONDS),
        Kind(f"40 epochs before the head, {EXECUTION_SECONDS * 1e3:.0f} ms each", 40, lambda: EXECUTION_SECONDS),
    )
    print("| executions | nodes | p50 ms | p99 ms | p99 by healthy |\n|---|---|---|---|---|")
    for kind in kinds:
        if only not in kind.name:
            continue
        healthy = 0.0
        for trouble in TROUBLES:
            try:
                took = await measure(trouble, reads, kind.seconds, kind.epochs_back)
            except AssertionError as error:
                print(f"{kind.name}, {trouble.name}: {error}")
                return 1
            p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
            healthy = healthy or p99
            print(
                f"| {kind.name} | {trouble.name} | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} | {p99 / healthy:.2f} |",
                flush=True,
            )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benches.gate.three_troubles", description=__doc__)
    parser.add_argument("--reads", type=int, default=1500, help="of each row")
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--only", default="", metavar="TEXT", help="the executions whose name has this in it")
    args = parser.parse_args(arguments)
    return asyncio.run(run(args.reads, args.seed, args.only))


if __name__ == "__main__":
    raise SystemExit(main())
