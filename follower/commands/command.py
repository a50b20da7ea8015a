"""What a subcommand is: one declaration, `COMMAND`, in a file of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from follower.settings import Settings

#: exit codes: 0 done, 1 failed, 2 cannot run as it was called or set (trying again changes nothing)
DONE: Final = 0
FAILED: Final = 1
CANNOT_RUN: Final = 2

#: runs a subcommand; the result is the exit code
Run = Callable[[Settings, argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. Its settings are those that name it in the settings table; `add_arguments` adds its own flags.

    `name` is one word, or two: "store stats" is run as `follower store stats`. `doc` is one sentence; `example` a whole
    command line.
    """

    name: str
    doc: str
    example: str
    run: Run
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
