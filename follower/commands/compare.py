"""`follower compare`: ask a server recorded questions and compare the answers."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import Final

from follower.commands.command import CANNOT_RUN, Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the report. Exit codes: 0 all equal, 1 a difference, 2 nothing could be compared."""
    from follower.commands.comparison import CompareError, compare

    if args.batch < 1 or args.concurrency < 1:
        print("follower: --batch and --concurrency are 1 or more", file=sys.stderr)
        return CANNOT_RUN
    try:
        found = asyncio.run(
            compare(
                args.target,
                args.records,
                args.methods,
                paths=[f"/rpc/{path}" for path in args.path],
                exclude=args.exclude,
                report=args.report,
                batch=args.batch,
                concurrency=args.concurrency,
            )
        )
    except (CompareError, OSError, re.error) as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    for line in found.lines(args.report):
        print(line)
    if args.texts:
        for text in found.texts:
            print(f"text: {text}")
    if not found.total:
        print("follower: no record matches", file=sys.stderr)
    return found.exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, of whom, and what the report shows."""
    parser.add_argument("--target", required=True, metavar="URL", help="the server, without /rpc/vN; TOKEN:ADDR too")
    parser.add_argument("--records", required=True, action="append", type=Path, metavar="FILE",
                        help=".jsonl or .jsonl.zst; may be given again")  # fmt: skip
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--exclude", default="", metavar="REGEX",
                        help="but not calls in which this is found, looked for in 'METHOD PARAMETERS'")  # fmt: skip
    parser.add_argument("--path", action="append", choices=("v0", "v1", "v2"), default=[],
                        help="only this API path; may be given again")  # fmt: skip
    parser.add_argument("--report", type=int, default=20, metavar="N", help="differences to show (default 20)")
    parser.add_argument("--texts", action="store_true", help="show equal errors whose text is another one")
    parser.add_argument("--batch", type=int, default=20, metavar="N",
                        help="calls in a request (default 20; 1: no batches)")  # fmt: skip
    parser.add_argument("--concurrency", type=int, default=4, metavar="N",
                        help="requests in flight at once (default 4)")  # fmt: skip


COMMAND: Final = Command(
    "compare",
    "Ask recorded questions and compare the answers.",
    "follower compare --target http://127.0.0.1:1234 --records rpc.jsonl.zst --methods 'Filecoin\\.Chain'",
    run,
    add_arguments,
)
