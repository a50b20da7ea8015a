"""Several processes as one command: started, restarted when they die, stopped in stages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from follower.child_command import start_command
from follower.logs.set_up import report_failure
from follower.settings import split_listen

log = logging.getLogger(__name__)

#: the delay before a restart doubles from the first to the second, in seconds
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
#: after a life of so many seconds the delay is the first one again
_HEALTHY_SECONDS: Final = 60.0
#: how long a child waits for the address in `starts_after`, and how often it looks, in seconds
_START_WAIT_SECONDS: Final = 30.0
_START_POLL_SECONDS: Final = 0.02
_READ_BYTES: Final = 1 << 16
_RELAY_SECONDS: Final = 2.0


@dataclass(slots=True)
class Child:
    """A process to run: `follower` with these arguments. `fatal`: exit codes after which it is not started again.

    The children of one `stage` are stopped together, those of a higher one first. `starts_after` is the HOST:PORT of
    another child that this one needs: it starts once connections are accepted there, or after 30 s all the same.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    fatal: frozenset[int] = frozenset({2})
    stage: int = 0
    starts_after: str = ""


async def _relay_lines(stream: asyncio.StreamReader, relay: Callable[[str], None]) -> None:
    """Pass on each line until the stream ends; a very long one in parts."""
    rest = b""
    while part := await stream.read(_READ_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) >= _READ_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            relay(line.decode(errors="replace"))
    if rest:
        relay(rest.decode(errors="replace"))


class Supervisor:
    """Runs children until `stop` is called. `relay`: takes each line that they print; None: they print themselves."""

    def __init__(
        self, children: Sequence[Child], *, stop_seconds: float = 40.0, relay: Callable[[str], None] | None = None
    ) -> None:
        self._children = list(children)
        self._relay = relay
        self._stop_seconds = stop_seconds
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._failed: str | None = None

    def stop(self) -> None:
        """Begin to stop; `run` returns when every child has ended. A second call tells the children to hurry."""
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
        runs = [asyncio.create_task(self._run_child(child), name=child.name) for child in self._children]
        await self._stopping.wait()
        for stage in sorted({child.stage for child in self._children}, reverse=True):
            await asyncio.gather(*(self._stop_child(child.name) for child in self._children if child.stage == stage))
        await asyncio.gather(*runs)
        if self._failed is not None:
            report_failure(self._failed)
            return 1
        return 0

    async def _run_child(self, child: Child) -> None:
        if child.starts_after:
            await self._wait_for_listener(child.starts_after)
        pause = _FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            relayed = self._relay is not None
            process = await start_command(
                child.arguments,
                {**child.environment, **({"PYTHONUNBUFFERED": "1"} if relayed else {})},
                stdout=asyncio.subprocess.PIPE if relayed else None,
                stderr=asyncio.subprocess.STDOUT if relayed else None,
            )
            self._running[child.name] = process
            relaying = None
            if process.stdout is not None and self._relay is not None:
                relaying = asyncio.create_task(_relay_lines(process.stdout, self._relay))
            code = await process.wait()
            if relaying is not None:
                # a process of the child's own may outlive it and keep the pipe open
                await asyncio.wait([relaying], timeout=_RELAY_SECONDS)
                relaying.cancel()
            del self._running[child.name]
            if self._stopping.is_set():
                return
            if code in child.fatal:
                self._failed = f"{child.name} cannot run (exit code {code})"
                self._stopping.set()
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                pause = _FIRST_DELAY_SECONDS
            log.warning("%s ended with code %s, starting it again in %.1f s", child.name, code, pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_DELAY_SECONDS)

    async def _wait_for_listener(self, address: str) -> None:
        host, port = split_listen(address)
        give_up = time.monotonic() + _START_WAIT_SECONDS
        while not self._stopping.is_set() and time.monotonic() < give_up:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _START_POLL_SECONDS)
            else:
                writer.close()
                return

    async def _stop_child(self, name: str) -> None:
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
