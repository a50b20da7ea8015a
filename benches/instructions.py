"""Python instructions of each method's answer, and the least time it takes, in one process without HTTP.

    python -m benches.instructions [--store URL] [--methods REGEX] [--seconds N] [--write FILE] [--compare FILE]

CPU time on a shared machine differs by half from one minute to the next; the count of instructions does not. Write the
rows of one version, then compare another with them. The time is the least of many short slices. What C code does (the
store, the JSON encoder) shows in the time alone.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import orjson

from benches import chain_methods, eth_methods, state_methods
from benches.chain_methods import MAKING, import_chain, services_over
from blockstore.open import open_store
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher

#: questions of each method
_QUESTIONS: Final = 12
#: the API version that they are asked under
_VERSION: Final = 1
#: seconds of a slice of which the least counts
_SLICE: Final = 0.004


class Counter:
    """Counts the Python instructions of this thread while it is on."""

    def __init__(self) -> None:
        self.count = 0

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.count += 1
        else:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self._trace

    def __enter__(self) -> Counter:
        self.count = 0
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


async def measure(dispatcher: Dispatcher, bodies: Sequence[bytes], seconds: float) -> tuple[float, float]:
    """(instructions of an answer, its least time in microseconds)."""

    async def ask_all() -> None:
        for body in bodies:
            await dispatcher.http(_VERSION, body)

    answers = [(await dispatcher.http(_VERSION, body))[1] for body in bodies]
    if all(answer.startswith(b'{"error"') for answer in answers):
        raise SystemExit(f"{bodies[0][:200]!r} was answered {answers[0][:200]!r}")
    for _ in range(3):
        await ask_all()
    # counting takes time: without an end of the slice, no walk gives up its turn for that
    pacer = dispatcher.services.pacer
    pacer.slice_end = math.inf
    with Counter() as counter:
        await ask_all()
    pacer.slice_end = 0.0
    least = math.inf
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began, asked = time.perf_counter(), 0
        while time.perf_counter() - began < _SLICE:
            await ask_all()
            asked += len(bodies)
        least = min(least, (time.perf_counter() - began) / asked)
    return counter.count / len(bodies), least * 1e6


async def questions(url: str, wanted: re.Pattern[str]) -> dict[str, Sequence[bytes]]:
    """Request bodies by row: those of the other benchmarks, and a batch."""
    found: dict[str, Sequence[bytes]] = {**await chain_methods.questions(url), **await state_methods.questions(url)}
    found |= {f"eth {name}": bodies for name, bodies in eth_methods.recorded_questions(re.compile("")).items()}
    some = list(found["StateGetActor"])
    found["batch of 100 StateGetActor"] = [b"[%b]" % b",".join((some * 100)[:100])]
    return {name: bodies[:_QUESTIONS] for name, bodies in found.items() if wanted.search(name)}


async def rows(url: str, wanted: re.Pattern[str], seconds: float) -> dict[str, tuple[float, float]]:
    """By row: what `measure` finds with answers kept as bytes, with other caches warm, and with caches turned off."""
    register_all()
    asked = await questions(url, wanted)
    found = {}
    for kind in ("kept", "warm", "cold"):
        services = await services_over(await open_store(url, readonly=True), kind == "cold")
        dispatcher = Dispatcher(services, settings=None if kind == "kept" else MAKING)
        for name, bodies in asked.items():
            found[f"{kind} {name}"] = await measure(dispatcher, bodies, seconds)
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.instructions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", metavar="URL", help="a store with a chain in it (default: the recorded chain)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only rows in which this is found")
    parser.add_argument("--seconds", type=float, default=0.3, help="for the time of each row (default 0.3)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the rows there, for --compare")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="rows of another version")
    args = parser.parse_args(arguments)
    before = orjson.loads(args.compare.read_bytes()) if args.compare else {}
    with tempfile.TemporaryDirectory() as folder:
        url = args.store or asyncio.run(import_chain(Path(folder)))
        found = asyncio.run(rows(url, re.compile(args.methods), args.seconds))
    for name, (count, least) in found.items():
        other = before.get(name)
        share = f"{count / other[0]:8.3f} instructions {least / other[1]:8.3f} time" if other else ""
        print(f"{name:48} {count:10.0f} instructions {least:10.1f} us {share}")
    if args.write:
        args.write.write_bytes(orjson.dumps(found))


if __name__ == "__main__":
    main()
