"""How long one request with large and odd parameters keeps the event loop of a follower.

    python -m benches.load.hostile [--megabytes 2] [--methods REGEX] [--limit MS]

Every type of parameter is given, once over all methods, texts of so many bytes that are right but for their last
character, or right and very long, in each of the forms that parameters have (a text, a link, a list, a field of an
object). `CPU` is the most processor time of the loop's thread in one turn of the loop. A body may have 8 MiB, and what
is linear costs four times as much there. Exit code 1 when a method is over the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import uvloop

from benches.chain_methods import MAKING
from benches.load.stalls import Questions, Watch, ask, fresh_services, questions_of
from rpc.methods import register_all
from rpc.registry import REGISTRY, Method
from rpc.server.dispatch import Dispatcher

_ACTORS: Final = 3000
_EPOCHS: Final = 4
#: what is shown of a text
_SHOWN: Final = 40


def texts(size: int) -> list[str]:
    """Texts of about so many bytes."""
    return [
        "a" * size + "!",
        "0x" + "a" * size + "g",
        "0x" + "0" * size + "1",
        "\n" * size + "!",
        "f0" + "1" * size + "x",
        "f1" + "a" * size + "1",
        "t2" + "a" * size,
        "bafy2bzace" + "a" * size + "1",
        "Qm" + "1" * size + "0",
        "z" + "2" * size,
        "1" * size,
        "1" * size + " FIL",
        "\u00e9" * (size // 2),
        "A" * (size // 4 * 4) + "=" + "\n" * 8,
    ]


def forms(text: str) -> list[Any]:
    """A text where parameters have texts."""
    return [
        text,
        {"/": text},
        [text],
        {"blockHash": text},
        {"tag": text},
        {"From": "f01000", "To": text},
        {"From": "f01000", "To": "f01001", "Value": text},
        {"from": "0x" + "00" * 20, "data": text},
        {"fromBlock": text},
        {"address": text},
        {"topics": [text]},
        {"Type": 1, "Data": text},
        {"fields": {text: []}},
        {"key": [{"/": text}]},
    ]


def lists(size: int) -> list[Any]:
    """Long lists and objects of small things, of about so many bytes of JSON."""
    link = {"/": "bafy2bzacecnamqgqmifpluoeldx7zzglxcljo6oja4vrmtj7432rphldpdmm2"}
    address = "0x" + "ff" * 20
    return [
        [1] * (size // 2),
        [[]] * (size // 3),
        [link] * (size // 70),
        ["f01000"] * (size // 9),
        {"address": [address] * (size // 45)},
        {"topics": [None] * (size // 5)},
        {"topics": [["0x" + "ab" * 32] * (size // 69)]},
        {"key": [link] * (size // 70)},
        {str(number): 1 for number in range(size // 12)},
    ]


def questions(method: Method, usual: Questions, size: int, seen: set[str]) -> Iterator[list[Any]]:
    """Parameter lists: each parameter of a type that was not yet asked about is hostile, the others are usual."""
    hostile = [form for text in texts(size) for form in forms(text)] + lists(size)
    if method.raw:
        for one in hostile:
            yield [one]
            yield ["0x1", one]
        return
    plain = [usual.by_type.get(getattr(param, "go", ""), [None])[0] for param in method.params]
    for place, param in enumerate(method.params):
        go = getattr(param, "go", "")
        if go and go in seen:
            continue
        seen.add(go)
        for one in hostile:
            yield [*plain[:place], one, *plain[place + 1 :]]


async def run(args: argparse.Namespace) -> int:
    """How many methods are over the limit."""
    register_all()
    wanted = re.compile(args.methods)
    seen: set[str] = set()
    asked = over = 0
    async with fresh_services(None, _ACTORS, _EPOCHS) as fresh:
        services = await fresh()
        usual = await questions_of(services)
        dispatcher = Dispatcher(services, settings=MAKING)
        watch = Watch()
        for method in REGISTRY:
            if method.channel or not wanted.search(method.name):
                continue
            worst = (0.0, "", b"")
            for params in questions(method, usual, int(args.megabytes * 1e6), seen):
                cpu, _, _, answer = await ask(dispatcher, method, params, watch)
                asked += 1
                if cpu > worst[0]:
                    shown = repr(params)
                    worst = (cpu, f"{shown[:_SHOWN]}…{shown[-_SHOWN:]}", answer[:100])
            if worst[0] * 1e3 > args.limit:
                over += 1
                print(
                    f"{method.name:34} {worst[0] * 1e3:8.1f} {worst[1]} {worst[2].decode(errors='replace')}", flush=True
                )
    print(f"{asked} requests; {over} methods over {args.limit:g} ms of CPU")
    return over


def main(arguments: list[str] | None = None) -> None:
    """The command line. Exit code 1 when a method is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2.0, metavar="MB", help="of a parameter (default 2)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--limit", type=float, default=50.0, metavar="MS", help="milliseconds (default 50)")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if runner.run(run(parser.parse_args(arguments))):
            sys.exit(1)


if __name__ == "__main__":
    main()
