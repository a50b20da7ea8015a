"""`make bench`: every benchmark in turn, or those named: `python -m benches import mirror`.

`--short`: seconds each instead of minutes, to see that they run and to compare two versions. Short runs vary more: take
several of each version, in turn.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bench:
    """A module with a `main`, and its arguments for a run of minutes at most and for one of seconds."""

    module: str
    arguments: tuple[str, ...]
    short: tuple[str, ...]


BENCHES: Final = {
    "store": Bench("benches.store", (), ("--objects", "20000")),
    "import": Bench("benches.import_car", (), ("--gigabytes", "0.05")),
    "export": Bench("benches.stores.export", (), ("--chain", "devnet", "--turns", "1")),
    "retention": Bench("benches.stores.retention", (), ("--epochs", "70", "--objects", "100")),
    "mirror": Bench("benches.mirror", (), ("--objects", "10000", "--epoch", "2000")),
    "keep-up": Bench(
        "benches.load.keep_up",
        (),
        ("--actors", "6000", "--objects", "500-1500", "--block-time", "2", "--seconds", "12"),
    ),
    "head": Bench("benches.head_latency", (), ("--changes", "20")),
    "moving": Bench(
        "benches.heads.moving_mix", (), ("--epochs", "20", "--changes", "6", "--rounds", "1", "--seconds", "1")
    ),
    "stalls": Bench("benches.load.stalls", (), ("--actors", "3000")),
    "chain": Bench("benches.chain_methods", (), ("--seconds", "0.3")),
    "state": Bench("benches.state_methods", ("--seconds", "1"), ("--seconds", "0.2")),
    "eth": Bench("benches.eth_methods", (), ("--seconds", "0.3", "--events", "20000")),
    "archive": Bench("benches.stores.archive", (), ("--objects", "200", "--questions", "20")),
    "eviction": Bench("benches.stores.eviction", (), ("--requests", "2", "--capacity", "10")),
    "instructions": Bench("benches.instructions", (), ("--seconds", "0.02")),
    "tree": Bench("benches.state_tree", (), ("--actors", "20000")),
    "pool": Bench(
        "benches.pool.measure",
        (),
        ("enqueue", "find", "kill", "empty", "--tipsets", "200", "--heights", "2000", "--rows", "3000"),
    ),
    "execution": Bench("benches.execution", ("--seconds", "5"), ("--seconds", "1", "--followers", "1")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named. Exit code 0; 2 for a name that is no benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benches", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; none: all")
    parser.add_argument("--short", action="store_true", help="seconds each, not minutes")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}")
    print(f"{platform.machine()}, Python {platform.python_version()}; machines differ: compare within one run")
    for name in args.names or BENCHES:
        bench = BENCHES[name]
        print(f"\n== {name} ({bench.module})", flush=True)
        began = time.monotonic()
        sys.argv = [bench.module, *(bench.short if args.short else bench.arguments)]
        importlib.import_module(bench.module).main()
        print(f"-- {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
