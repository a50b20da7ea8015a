"""`follower plan`: what a number of requests a second needs, by the capacity model."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from follower.commands.command import CANNOT_RUN, DONE, Command
from follower.settings import Settings

if TYPE_CHECKING:
    from follower.commands.load.capacity import Case, Estimate, Model, Plan

#: the shares of `follower bench` without a mix file
_USUAL: Final = "the usual mix (see docs/scale.md)"


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the plan. Exit codes: 0 done, 2 the case, the mix or the model makes no sense."""
    from follower.commands.load.capacity import BadModel, Case, Model, plan
    from follower.commands.load.made_mix import SHARES
    from follower.commands.load.mix import BadMix, read_mix

    try:
        counts = Counter(call.method for call in read_mix(args.mix)) if args.mix else Counter(SHARES)
        shares = {name: count / counts.total() for name, count in counts.items()}
        case = Case(
            rps=args.rps, cores=args.cores, utilisation=args.utilisation, cache_mb=args.cache_mb, actors=args.actors,
            objects=args.objects, block_seconds=args.block_time, copies=args.copies, read_copies=args.read_copies,
            gigabits=args.gigabits, kept=args.kept,
        )  # fmt: skip
        model = Model.load(args.model.read_bytes() if args.model else None)
        classes = cost_classes(shares)
        made = plan(model, case, shares, classes)
    except (BadMix, BadModel, OSError) as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    for line in lines(made, case, model, shares, classes, str(args.mix or _USUAL)):
        print(line)
    return DONE


def cost_classes(shares: Mapping[str, float]) -> dict[str, str]:
    """The cost class of each method; one that is not served counts as executed elsewhere."""
    from rpc.methods import register_all
    from rpc.registry import REGISTRY, V0, V1, V2, Cost

    register_all()
    known = {**REGISTRY.names(V2), **REGISTRY.names(V0), **REGISTRY.names(V1)}
    return {name: (known[name].cost if name in known else Cost.EXECUTE).value for name in shares}


def lines(
    made: Plan, case: Case, model: Model, shares: Mapping[str, float], classes: Mapping[str, str], mix: str
) -> Iterator[str]:
    """The plan as text."""
    yield f"{case.rps:,.0f} requests/s of {mix}"
    yield (
        f"machines of {case.cores} cores, planned for {case.utilisation:.0%} of each; {case.actors:,} actors, "
        f"{case.objects:,} new objects a head, a head each {case.block_seconds:g} s"
    )
    yield ""
    yield f"  {'CPU of a follower, us a request':44} {_text(made.request_us, ',.0f')}"
    yield f"  {'answer, bytes':44} {made.bytes_each:,.0f}"
    yield f"  {f'store reads a request, {case.cache_mb:g} MiB of object cache':44} {_text(made.trips_each, ',.2f')}"
    yield ""
    yield f"  {'serving processes (workers)':44} {_text(made.processes, ',.0f')}"
    yield f"  {'follower machines, one of them spare':44} {_text(made.machines, ',.0f')}"
    yield f"  {'balancers, one of them spare':44} {_text(made.balancers, ',.0f')}"
    yield f"  {f'database nodes, {case.copies} copies':44} {_text(made.database_nodes, ',.0f')}"
    yield f"  {'reads of the database a second':44} {_text(made.reads, ',.0f')}"
    yield f"  {'bridge, share of a core':44} {_text(made.bridge_share, '.0%')}"
    yield f"  {'disk for states (the default policy), GB':44} {_text(made.disk.times(1e-9), ',.0f')}"
    yield f"  {'answers, Gbit/s':44} {made.outbound * 8e-9:,.2f}"
    yield ""
    yield "what is full first, where there is one unit of each:"
    for limit in made.limits:
        yield f"  {_text(limit.rps, ',.0f'):>36} requests/s  {limit.name}, {limit.unit}: {limit.remedy}"
    unknown = sorted(name for name in shares if name not in model.methods)
    if unknown:
        yield ""
        yield "counted by their cost class, which is less exact: " + ", ".join(
            f"{name} ({classes[name]})" for name in unknown
        )
    yield ""
    yield f"(least-most of the measurements.) {model.measured.get('how', '')}"


def _text(estimate: Estimate, form: str) -> str:
    low, value, high = (format(one, form) for one in (estimate.low, estimate.value, estimate.high))
    return value if low == high else f"{value} ({low}-{high})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The case."""
    parser.add_argument("--rps", type=float, required=True, metavar="N", help="requests a second, at the peak")
    parser.add_argument("--mix", type=Path, metavar="FILE", help="calls, as for bench (default: the usual shares)")
    parser.add_argument("--cores", type=int, default=16, metavar="N", help="of a machine (default 16)")
    parser.add_argument("--utilisation", type=float, default=0.6, metavar="P",
                        help="share of each core that is planned for (default 0.6)")  # fmt: skip
    parser.add_argument("--cache-mb", type=float, default=256.0, metavar="N",
                        help="object_cache_mb of a process (default 256)")  # fmt: skip
    parser.add_argument("--actors", type=int, default=3_500_000, metavar="N", help="in the state (default 3,500,000)")
    parser.add_argument("--objects", type=int, default=40_000, metavar="N", help="new ones a head (default 40,000)")
    parser.add_argument("--block-time", type=float, default=30.0, metavar="SECONDS", help="between heads (default 30)")
    parser.add_argument("--copies", type=int, default=3, metavar="N", help="of each object (default 3)")
    parser.add_argument("--read-copies", type=int, default=2, metavar="N",
                        help="database nodes that answer a read (default 2: QUORUM of 3)")  # fmt: skip
    parser.add_argument("--kept", type=float, default=0.0, metavar="P",
                        help="share of requests whose answers are kept as bytes, X-Cache: HIT (default 0)")  # fmt: skip
    parser.add_argument("--gigabits", type=float, default=10.0, metavar="N", help="of a machine's network (default 10)")
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="a model that you have fitted (default: this package's)"
    )


COMMAND: Final = Command(
    "plan",
    "Tell what a number of requests a second needs, by the capacity model.",
    "follower plan --rps 100000 --mix mix.jsonl",
    run,
    add_arguments,
)
