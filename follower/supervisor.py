"""Several processes as one command: started in order, restarted when they die, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

log = logging.getLogger(__name__)

_RESTART_FIRST: Final = 0.5
_RESTART_MOST: Final = 30.0
#: a process that lived so many seconds is restarted at once
_HEALTHY: Final = 60.0


@dataclass(slots=True)
class Child:
    """A process to run: `follower` with these arguments. `fatal` exit codes are not tried again.

    The children of one `stage` are stopped together, those of a higher one first.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    fatal: frozenset[int] = frozenset({2})
    stage: int = 0


class Supervisor:
    """Runs children until told to stop."""

    def __init__(self, children: Sequence[Child], *, stop_seconds: float = 40.0) -> None:
        self._children = list(children)
        self._stop_seconds = stop_seconds
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._failed: str | None = None

    def stop(self) -> None:
        """Begin to stop; `run` returns when every child has ended. A second call asks the children again: to hurry."""
        if self._stopping.is_set():
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        self._stopping.set()

    async def run(self) -> int:
        """The exit code: 0 after `stop`, 1 when a child ended for good."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self.stop)
        keepers = [asyncio.create_task(self._keep(child), name=child.name) for child in self._children]
        await self._stopping.wait()
        for stage in sorted({child.stage for child in self._children}, reverse=True):
            await asyncio.gather(*(self._end(child.name) for child in self._children if child.stage == stage))
        await asyncio.gather(*keepers)
        if self._failed is not None:
            print(f"follower: {self._failed}", file=sys.stderr)
            return 1
        return 0

    async def _keep(self, child: Child) -> None:
        pause = _RESTART_FIRST
        while not self._stopping.is_set():
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "follower.cli",
                *child.arguments,
                env={**os.environ, **child.environment},
                # its own session: Ctrl-C reaches this process alone, which then stops them in order
                start_new_session=True,
            )
            self._running[child.name] = process
            code = await process.wait()
            del self._running[child.name]
            if self._stopping.is_set():
                return
            if code in child.fatal:
                self._failed = f"{child.name} cannot run (exit code {code})"
                self._stopping.set()
                return
            if time.monotonic() - began > _HEALTHY:
                pause = _RESTART_FIRST
            log.warning("%s ended with code %s, starting it again in %.1f s", child.name, code, pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, _RESTART_MOST)

    async def _end(self, name: str) -> None:
        process = self._running.get(name)
        if process is None:
            return
        try:
            process.terminate()
            await asyncio.wait_for(process.wait(), self._stop_seconds)
        except ProcessLookupError:
            return
        except TimeoutError:
            log.warning("%s did not stop within %.0f s, killing it", name, self._stop_seconds)
            process.kill()
            await process.wait()
