"""Wall time of the first answers of a follower that has just started, over one Cassandra: this version beside another.

    python -m benches.stores.cold --before DIR [--trip-ms N ...] [--turns N] [--mix FILE] [--slowest N] [--only NAME]

`DIR` is a checkout of the other version; both run with this Python. The recorded chain is imported once. Every turn
starts the followers one after the other, and asks each every call of the mix once, one call after the other over one
connection, so that no answer waits for a processor. `--trip-ms`: milliseconds that a proxy adds to each round trip to
the database (0: no proxy). "empty": the object tier on disk is empty. "filled": a follower before has filled it, as
after a restart. The time from the start of the process to its first answer stands beside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from benches.rpc_load import free_port
from benches.stores.shared import import_shared, mix_bodies, one_by_one
from tests.support.cassandra.server import own_node
from tests.support.paths import ROOT
from tests.support.processes import clean_environment
from tests.support.recorded import recorded

_KEYSPACE: Final = "bench_cold"
_HEAD: Final = b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":[]}'
_START_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Kind:
    """A follower that is measured: its name, and the checkout that it runs from."""

    name: str
    folder: Path
    #: of its object tier; "" has none, "new": an empty one in each turn
    tier: str = ""
    #: NAME=VALUE
    settings: tuple[str, ...] = ()
    #: whether one follower that clients have asked is its peer
    has_peer: bool = False

    def arguments(self, new: str) -> list[str]:
        """More of its command line. `new`: an empty folder."""
        if not self.tier:
            return []
        more = [word for pair in self.settings for word in (f"--{pair.partition('=')[0]}", pair.partition("=")[2])]
        return ["--object-tier-dir", new if self.tier == "new" else self.tier, *more]

    @contextlib.contextmanager
    def peer(self, folder: str, url: str, bodies: Sequence[bytes]) -> Iterator[list[str]]:
        """The command line of one that has this peer. `folder`: the peer's tier is kept here."""
        if not self.has_peer:
            yield []
            return
        secret = Path(folder) / "secret"
        secret.write_text("the secret of this benchmark\n")
        guarded = ["--object-peer-secret-file", str(secret)]
        with started(replace(self, tier=f"{folder}/peer", has_peer=False), "", url, guarded) as (port, _):
            one_by_one(port, bodies)
            yield [*guarded, "--object-peers", f"http://127.0.0.1:{port}"]


@contextlib.contextmanager
def started(kind: Kind, new: str, url: str, more: Sequence[str] = ()) -> Iterator[tuple[int, float]]:
    """(port, seconds until it gave its first answer) of a follower. `new`: an empty folder. `more`: arguments."""
    port = free_port()
    environment = {**clean_environment(), "PYTHONPATH": str(kind.folder)}
    # what is measured is what an operator gets
    for name in ("FOLLOWER_OBJECT_TIER_DIR", "FOLLOWER_START_AHEAD_SECONDS"):
        del environment[name]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "follower.cli", "serve", "--store", url, "--listen", f"127.0.0.1:{port}",
             "--status-page", "off", "--ready-head-age-epochs", "0", *kind.arguments(new), *more],
            cwd=kind.folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            while True:
                try:
                    one_by_one(port, [_HEAD])
                    break
                except (OSError, asyncio.IncompleteReadError):
                    if process.poll() is not None or time.perf_counter() > began + _START_SECONDS:
                        log.seek(0)
                        text = log.read().decode(errors="replace")
                        raise SystemExit(f"the follower of {kind.folder} does not answer:\n{text}") from None
                    time.sleep(0.02)
            yield port, time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def far(port: int, milliseconds: float) -> Iterator[int]:
    """The port at which the database's answers come so much later."""
    if not milliseconds:
        yield port
        return
    listen = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.stores.delay_proxy", "--listen", str(listen), "--server", f"127.0.0.1:{port}",
         "--delay-ms", str(milliseconds)], cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    try:
        yield listen
    finally:
        process.terminate()
        process.wait()


def tail(values: Sequence[float], share: float) -> float:
    """The value that so many of them are below."""
    return sorted(values)[int(len(values) * share)]


def turns(url: str, kinds: Sequence[Kind], bodies: Sequence[bytes], count: int, slowest: int, folder: str) -> None:
    """Print a line for each kind: the median of the turns, the least and the most, in milliseconds. `folder`: for what
    lasts longer than a turn."""
    times: dict[str, list[list[float]]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    # one that does not count: the server's compiler, the files of the other version
    for turn in range(-1, count):
        for kind in kinds:
            with (
                tempfile.TemporaryDirectory() as new,
                kind.peer(folder, url, bodies) as peer,
                started(kind, new, url, peer) as (port, start),
            ):
                took = one_by_one(port, bodies)
            if turn >= 0:
                times[kind.name].append([one * 1e3 for one in took])
                starts[kind.name].append(start)
    first = kinds[0].name
    for kind in kinds:
        line = f"  {kind.name:16}"
        for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            some = [tail(took, share) for took in times[kind.name]]
            base = statistics.median(tail(took, share) for took in times[first])
            line += f" {label} {statistics.median(some):6.2f} ({min(some):.2f}-{max(some):.2f}; "
            line += f"{statistics.median(some) / base:.2f})"
        sums = [sum(took) / 1e3 for took in times[kind.name]]
        print(f"{line} all {statistics.median(sums):.2f} s; started in {statistics.median(starts[kind.name]):.2f} s")
        # the slowest calls by the median of their turns: one turn's may be the machine's
        each = sorted(((statistics.median(some), at) for at, some in enumerate(zip(*times[kind.name], strict=True))),
                      reverse=True)  # fmt: skip
        for took, at in each[:slowest]:
            call = orjson.loads(bodies[at])
            print(f"    {took:7.2f} ms  #{at} {call['method']} {str(call['params'])[:100]}")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.stores.cold", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of another version")
    parser.add_argument("--trip-ms", type=float, nargs="*", default=[0.0, 2.0], metavar="N",
                        help="added to each round trip (default: 0 and 2)")  # fmt: skip
    parser.add_argument("--turns", type=int, default=5, help="of which the middle counts (default 5)")
    parser.add_argument("--mix", type=Path, help="a file of calls (default: the recorded mix)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of this version")
    parser.add_argument("--slowest", type=int, default=0, metavar="N", help="also print the N slowest calls")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help='of this version, e.g. "empty, a peer"')
    parser.add_argument("--cassandra", default="", metavar="HOST:PORT", help="a server that runs, not one started here")
    parser.add_argument("--imported", action="store_true", help="the chain is in that server already")
    args = parser.parse_args(arguments)
    bodies = mix_bodies(args.mix or recorded("mix.jsonl"))
    settings = tuple(pair.replace("_", "-") for pair in args.set)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = args.cassandra
        if not server:
            server = f"127.0.0.1:{stack.enter_context(own_node()).port}"
        if not args.imported:
            asyncio.run(import_shared(f"cassandra://{server}/{_KEYSPACE}"))
        for trip in args.trip_ms:
            kinds = [] if args.before is None else [Kind("before", args.before)]
            kinds.append(Kind("tier empty", ROOT, "new", settings))
            kinds.append(Kind("empty, a peer", ROOT, "new", settings, has_peer=True))
            kinds.append(Kind("tier filled", ROOT, f"{folder}/{trip:g}", settings))
            kinds = [kind for kind in kinds if not args.only or kind.name in ("before", *args.only)]
            with far(int(server.rpartition(":")[2]), trip) as port:
                print(f"{trip:g} ms more a round trip; {len(bodies)} calls, each once; milliseconds, median of "
                      f"{args.turns} turns (least-most; times {kinds[0].name})", flush=True)  # fmt: skip
                turns(f"cassandra://127.0.0.1:{port}/{_KEYSPACE}", kinds, bodies, args.turns, args.slowest,
                      folder)  # fmt: skip


if __name__ == "__main__":
    main()
