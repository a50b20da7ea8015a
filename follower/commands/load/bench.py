"""`follower bench`: load a JSON-RPC server, beside another one, and tell what each method does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from follower.commands.command import CANNOT_RUN, DONE, FAILED, Command
from follower.commands.processes import run_loop
from follower.settings import CannotRun, Settings

#: connections at a time, at most
_MAX_CONCURRENCY: Final = 4096


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the table. Exit codes: 0 measured, 1 the target gave no result at all, 2 nothing could be measured."""
    if not 0 < args.seconds <= 3600:
        raise CannotRun("--seconds is above 0, and 3600 at most")
    if not 1 <= args.concurrency <= _MAX_CONCURRENCY:
        raise CannotRun(f"--concurrency is from 1 to {_MAX_CONCURRENCY}")
    if args.baseline_pid and not args.baseline:
        raise CannotRun("--baseline-pid is of use with --baseline only")
    return run_loop(_measured(args))


async def _measured(args: argparse.Namespace) -> int:
    import orjson

    from follower.commands.load.made_mix import NoChain, make_mix
    from follower.commands.load.measure import clock, measure, warnings
    from follower.commands.load.mix import BadMix, Call, by_row, chosen, read_mix
    from follower.commands.load.report import as_json, error_lines, heading, line_of
    from follower.commands.load.target import BadTarget, find_target, parse_target

    try:
        info = parse_target(args.target)
        other = parse_target(args.baseline) if args.baseline else None
        if args.mix is not None:
            calls = read_mix(args.mix)
        else:
            await find_target(info, Call.of("Filecoin.ChainHead", []))
            calls = await make_mix(info)
        calls = chosen(calls, args.methods, args.exclude)
        target = await find_target(info, calls[0], args.pid)
        baseline = await find_target(other, calls[0], args.baseline_pid) if other is not None else None
    except (BadMix, BadTarget, NoChain) as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    groups = list(by_row(calls))
    width = max(len(name) for name, _ in groups)
    against = f" beside {baseline.name}" if baseline is not None else ""
    print(
        f"{target.name}{against}: {len(calls)} calls, {args.concurrency} connections, {args.seconds:g} s a row",
        flush=True,
    )
    print(heading(width, has_baseline=baseline is not None), flush=True)
    started = clock()
    rows = []
    async for row in measure(target, baseline, calls, seconds=args.seconds, concurrency=args.concurrency):
        rows.append(row)
        print(line_of(row, width), flush=True)
    for line in error_lines(rows):
        print(line)
    for text in warnings(rows, target, baseline):
        print(f"note: {text}")
    if args.json is not None:
        report = as_json(rows, target, baseline, started=started, seconds=args.seconds, concurrency=args.concurrency)
        args.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    return DONE if any(row.target.answers for row in rows) else FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who is asked what, and for how long."""
    parser.add_argument("--target", required=True, metavar="URL", help="the server; TOKEN:ADDR too")
    parser.add_argument("--baseline", metavar="URL", help="another server, measured beside it: ratios are told")
    parser.add_argument("--mix", type=Path, metavar="FILE",
                        help=".jsonl or .jsonl.zst of calls (default: made of the target's newest epochs)")  # fmt: skip
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--exclude", default="", metavar="REGEX", help="but not those in which this is found")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="N",
                        help="seconds of load on each server for a row of the table (default 8)")  # fmt: skip
    parser.add_argument("--concurrency", type=int, default=32, metavar="N",
                        help="connections, each with one request at a time (default 32)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as JSON")
    parser.add_argument("--pid", type=int, action="append", default=[], metavar="PID",
                        help="the target's process, for its CPU time, with all below it; may be given again (default: "
                        "the processes of this machine that listen on its port)")  # fmt: skip
    parser.add_argument("--baseline-pid", type=int, action="append", default=[], metavar="PID",
                        help="the same of the baseline")  # fmt: skip


COMMAND: Final = Command(
    "bench",
    "Load a JSON-RPC server, and tell requests/s and latencies of each method.",
    "follower bench --target http://127.0.0.1:1234 --baseline http://10.0.0.5:1234 --mix mix.jsonl",
    run,
    add_arguments,
)
