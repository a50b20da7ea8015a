"""CPU time a request of one follower, and of two and three on full cores, in turns; how often each waits for work.

    python -m benches.load.full_cores [--turns N] [--seconds N] [--connections N ...] [--batch] [--pin]
        [--answer-cache-mb N] [--patient]

Followers of one worker each over one LMDB store of the recorded chain, whose head stands still; no answer is kept
(unless `--answer-cache-mb` says so); the usual mix (`follower bench` without a file). One process asks all of them.
Started with `nice -n -20` from a shell whose `/proc/self/autogroup` has -20 too, other work of the machine takes next
to nothing of the cores.

`--pin`: the followers share the first core, the generator has the last. `--batch`: followers under SCHED_BATCH too.
`--patient`: the generator under SCHED_BATCH, so that it takes no core from a follower each time that an answer comes.
Clients on other machines do not either.
`idle` is the share of all cores that nobody used meanwhile: where it is large, the cores were not full.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import uvloop

from benches.chain_methods import import_chain
from benches.load import costs
from benches.load.costs import followers
from follower.commands.load.connection import load, requests_of
from follower.commands.load.made_mix import make_mix
from follower.commands.load.target import parse_target

_COUNTS: Final = (1, 2, 3)
#: seconds of load that do not count
_WARM: Final = 0.3


class Spent(NamedTuple):
    """Of some processes so far: nanoseconds on a core and waiting for one, waits for work, times taken off the core."""

    running: int
    queued: int
    waits: int
    preempted: int

    @classmethod
    def by(cls, pids: Sequence[int]) -> Spent:
        """What these have used."""
        running = queued = waits = preempted = 0
        for pid in pids:
            one, two, _ = map(int, Path(f"/proc/{pid}/schedstat").read_text().split())
            running, queued = running + one, queued + two
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                waits += int(value) if name == "voluntary_ctxt_switches" else 0
                preempted += int(value) if name == "nonvoluntary_ctxt_switches" else 0
        return cls(running, queued, waits, preempted)


def cores_used() -> tuple[int, int]:
    """(clock ticks of all cores, those of them that were idle) since the start of the machine."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


async def measure(targets: Sequence[str], pids: Sequence[int], requests: Sequence[bytes], args: argparse.Namespace,
                  connections: int) -> dict[str, float]:  # fmt: skip
    """Figures of one turn, each a request but for `rate` (requests a second) and `idle` (0 to 1)."""

    async def ask(seconds: float) -> int:
        tallies = await asyncio.gather(
            *(
                load(parse_target(target), requests, seconds=seconds, concurrency=connections, first=7 * at)
                for at, target in enumerate(targets)
            )
        )
        return sum(tally.answers + tally.errors + tally.limited for tally in tallies)

    await ask(_WARM)
    before, cores = Spent.by(pids), cores_used()
    asked = await ask(args.seconds)
    spent = [now - then for now, then in zip(Spent.by(pids), before, strict=True)]
    every, idle = (now - then for now, then in zip(cores_used(), cores, strict=True))
    running, queued, waits, preempted = (one / max(1, asked) for one in spent)
    return {
        "cpu_us": running / 1e3, "queued_us": queued / 1e3, "waits": waits, "preempted": preempted,
        "rate": asked / args.seconds, "idle": idle / max(1, every),
    }  # fmt: skip


def place(pids: Sequence[int], *, batch: bool, cores: set[int]) -> None:
    """Put all threads of processes under a policy, and on some cores."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setscheduler(int(thread), os.SCHED_BATCH if batch else os.SCHED_OTHER, os.sched_param(0))
            os.sched_setaffinity(int(thread), cores)


async def run(args: argparse.Namespace) -> None:
    """Measure, and print a line for each case: medians of the turns, and the CPU of each turn."""
    every = sorted(os.sched_getaffinity(0))
    ours, theirs = ({every[0]}, {every[-1]}) if args.pin else (set(every), set(every))
    os.sched_setaffinity(0, theirs)
    if args.patient:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    found: dict[tuple[int, bool, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = await import_chain(Path(folder))
        started = [stack.enter_context(followers(url, 1)) for _ in _COUNTS]
        info = parse_target(started[0][0][0])
        requests = requests_of(info, await make_mix(info))
        for _ in range(args.turns):
            for connections, batch, count in product(args.connections, (False, True)[: 1 + args.batch], _COUNTS):
                targets = [one for some, _ in started[:count] for one in some]
                pids = [pid for _, some in started[:count] for pid in some]
                place(pids, batch=batch, cores=ours)
                row = await measure(targets, pids, requests, args, connections)
                found.setdefault((connections, batch, count), []).append(row)
    for (connections, batch, count), rows in found.items():
        middle = {name: median(row[name] for row in rows) for name in rows[0]}
        ones = [row["cpu_us"] for row in found[connections, batch, 1]]
        paired = median(row["cpu_us"] / one for row, one in zip(rows, ones, strict=True))
        turns = " ".join(f"{row['cpu_us']:.1f}" for row in rows)
        print(
            f"{count} followers, {connections} connections each{', SCHED_BATCH' if batch else ''}: "
            f"{middle['cpu_us']:.1f} us ({turns}), {middle['cpu_us'] / median(ones):.2f} times one's, "
            f"{paired:.2f} times that of the same turn; "
            f"{middle['waits']:.3f} waits for work, {middle['preempted']:.3f} times taken off, "
            f"{middle['queued_us']:.0f} us waiting for a core; {middle['rate']:,.0f}/s, {middle['idle']:.0%} idle",
            flush=True,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.load.full_cores", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn (default 1.5)")
    parser.add_argument("--connections", type=int, nargs="*", default=[32], help="of each follower (default 32)")
    parser.add_argument("--batch", action="store_true", help="followers under SCHED_BATCH too")
    parser.add_argument("--pin", action="store_true", help="the followers on one core, the generator on another")
    parser.add_argument("--answer-cache-mb", type=int, default=0, help="of each follower (default 0: none is kept)")
    parser.add_argument("--patient", action="store_true", help="the generator takes no core from a follower")
    args = parser.parse_args()
    costs.SERVE[:] = ["--answer-cache-mb", str(args.answer_cache_mb)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(args))


if __name__ == "__main__":
    main()
