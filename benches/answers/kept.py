"""CPU time of an answer that is kept and of one that is made, over HTTP from an LMDB store, method by method.

    python -m benches.answers.kept [--store URL] [--seconds N] [--turns N] [--methods REGEX] [--gzip]

Three servers of one process each: one keeps answers, one makes each anew with its other caches warm, and a bare one
only sends the bytes of the first one's answers: no follower could take less. A row asks them in turn, and tells the
middle of each one's turns. CPU time is the server's, its system calls included; the load generator is `wrk` with 32
connections where it is installed. The last line names the rows at or over the aim.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from statistics import median

from benches import chain_methods, eth_methods, state_methods
from benches.answers.bare_server import answers_of, serving_bare
from benches.chain_methods import import_chain, serving
from benches.rpc_load import free_port, load, server_process

#: questions of each method
_QUESTIONS = 200
#: microseconds of CPU below which a kept answer is to stay
_AIM = 15


async def questions(url: str, wanted: re.Pattern[str]) -> dict[str, Sequence[bytes]]:
    """Request bodies by row."""
    found: dict[str, Sequence[bytes]] = {**await chain_methods.questions(url), **await state_methods.questions(url)}
    found |= {f"eth {name}": bodies for name, bodies in eth_methods.recorded_questions(re.compile("")).items()}
    return {name: bodies[:_QUESTIONS] for name, bodies in found.items() if wanted.search(name)}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.answers.kept", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", metavar="URL", help="a store with a chain in it (default: the recorded chain)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each server and row (default 1)")
    parser.add_argument(
        "--turns", type=int, default=1, help="of each row; on a machine that is not quiet, 3 (default 1)"
    )
    parser.add_argument("--methods", default="", metavar="REGEX", help="only rows in which this is found")
    parser.add_argument("--gzip", action="store_true", help="ask as the clients do that take gzip: most do")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = args.store or asyncio.run(import_chain(Path(folder)))
        asked = asyncio.run(questions(url, re.compile(args.methods)))
        ports = [free_port(), free_port()]
        pids = [
            stack.enter_context(server_process(serving(url, False, keeps=keeps), port))
            for keeps, port in zip((True, False), ports, strict=True)
        ]
        every = {body for bodies in asked.values() for body in bodies}
        whole = answers_of(ports[0], every, takes_gzip=args.gzip)
        ports.append(free_port())
        pids.append(stack.enter_context(server_process(serving_bare(whole), ports[2])))
        took: dict[str, tuple[float, float]] = {}
        for name, bodies in asked.items():
            turns = [
                [
                    load(
                        f"http://127.0.0.1:{port}/rpc/v1",
                        bodies,
                        pids=[pid],
                        seconds=args.seconds,
                        takes_gzip=args.gzip,
                    )
                    for port, pid in zip(ports, pids, strict=True)
                ]
                for _ in range(args.turns)
            ]
            kept, made, bare = (
                sorted(one, key=attrgetter("cpu_each"))[len(one) // 2] for one in zip(*turns, strict=True)
            )
            micros = [one.cpu_each * 1e6 for one in (kept, made, bare)]
            took[name] = micros[0], micros[2]
            size = sum(len(whole[body]) for body in bodies) / len(bodies)
            print(
                f"{name:34} {size:8,.0f} bytes   kept {micros[0]:6.1f} us CPU {kept.rate:8,.0f}/s"
                f"   made {micros[1]:7.1f} us CPU {made.rate:8,.0f}/s   {kept.rate / max(made.rate, 1e-9):5.1f} times"
                f"   bare {micros[2]:5.1f} us CPU",
                flush=True,
            )

        over = ", ".join(f"{name} {micros:.1f}" for name, (micros, _) in took.items() if micros >= _AIM)
        medians = " ".join(f"{median(one):.1f}" for one in zip(*took.values(), strict=True))
        print(f"{len(took)} rows, medians of kept and bare {medians} us; {_AIM} us or more: {over or 'none'}")


if __name__ == "__main__":
    main()
