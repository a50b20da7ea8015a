"""The argument by which work on a store is told how much of the time it may take."""

from __future__ import annotations

import argparse


def _percent(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise ValueError
    return value


def add_percent(parser: argparse.ArgumentParser) -> None:
    """Add `--percent`, from 1 to 100."""
    parser.add_argument(
        "--percent", type=_percent, default=50, help="the share of the time in which it works (default 50)"
    )
