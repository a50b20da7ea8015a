"""Another command of `follower` as a child of this process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence


async def start_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> asyncio.subprocess.Process:
    """Run `follower ARGUMENTS` with this process's environment and `environment`. Errors: OSError.

    It is in a process group of its own: Ctrl-C reaches this process alone, which then stops it in order.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "follower.cli",
        *arguments,
        env={**os.environ, **environment},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        # not in a session: Linux may share the cores among sessions first, and priorities mean nothing between them
        preexec_fn=os.setpgrp,
    )
