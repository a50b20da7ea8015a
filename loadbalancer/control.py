"""Controls a running balancer: checks a new file, then reloads. One class for each kind of balancer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from loadbalancer.fleet import Member
from loadbalancer.haproxy import haproxy_config
from loadbalancer.nginx import nginx_config
from loadbalancer.settings import BalancerSettings

#: seconds for a command, for an answer of the master, and for a new process to take over
_COMMAND: Final = 30.0
_MASTER: Final = 5.0
_TAKE_OVER: Final = 10.0
_STARTS: Final = 2.0
_LOOK: Final = 0.05
#: characters of a command's output in an error
_MAX_OUTPUT: Final = 2000


class BadConfiguration(Exception):
    """The balancer refuses this file. The text is its output."""


class ReloadFailed(Exception):
    """The running balancer could not be reached, or did not reload."""


class Balancer(Protocol):
    """A kind of balancer."""

    #: whether it checks the health of members itself
    checks_health: bool

    def config(self, members: Sequence[Member], down: Collection[str], behind: Collection[str] = ()) -> str:
        """The file's text. `down` are addresses of members that are not ready, `behind` of a last resort."""

    async def check(self, file: Path) -> None:
        """Errors: BadConfiguration."""

    async def reload(self, file: Path) -> None:
        """Have the running balancer take the file. Errors: ReloadFailed."""


def _words(command: str, file: Path) -> list[str]:
    words = [word.replace("{file}", str(file.absolute())) for word in shlex.split(command)]
    if not words:
        raise ValueError("an empty command")
    return words


async def _run(command: str, file: Path) -> tuple[int, str]:
    """A command's exit code and output; `{file}` in it is the configuration. Errors: OSError, ValueError."""
    words = _words(command, file)
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_COMMAND):
            output, _ = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return 1, f"no end within {_COMMAND:g} s"
        raise
    return process.returncode or 0, output.decode(errors="replace").strip()[-_MAX_OUTPUT:]


async def _run_or_raise(command: str, file: Path, failure: type[BadConfiguration | ReloadFailed]) -> None:
    """Run a command. Errors: `failure`, with the command's output."""
    try:
        code, output = await _run(command, file)
    except (OSError, ValueError) as error:
        raise failure(f"{command}: {error}") from None
    if code:
        raise failure(f"{command} ended with {code}: {output}")


@dataclass(frozen=True, slots=True)
class Haproxy:
    """HAProxy under a master process. Reloads by the master's socket, or by a command."""

    settings: BalancerSettings
    master_socket: Path = Path("/run/haproxy-master.sock")
    check_command: str = "haproxy -c -f {file}"
    reload_command: str = ""
    checks_health = True

    def config(self, members: Sequence[Member], down: Collection[str], behind: Collection[str] = ()) -> str:
        """HAProxy checks readiness itself: `down` and `behind` are not used."""
        return haproxy_config(members, self.settings)

    async def check(self, file: Path) -> None:
        """Errors: BadConfiguration."""
        await _run_or_raise(self.check_command, file, BadConfiguration)

    async def reload(self, file: Path) -> None:
        """Returns when a new worker has taken over. Errors: ReloadFailed."""
        if self.reload_command:
            await _run_or_raise(self.reload_command, file, ReloadFailed)
            return
        before, _ = _processes(await self._first_answer("show proc"))
        answer = ""
        with contextlib.suppress(ReloadFailed):
            # the master may reset this connection while it re-executes itself: what follows tells the outcome
            answer = await self._ask("reload")
        loop = asyncio.get_running_loop()
        until = loop.time() + _TAKE_OVER
        # versions from 2.7 on answer when it is done; those before only begin
        failed = "Success=0" in answer
        while not failed and loop.time() < until:
            with contextlib.suppress(ReloadFailed):
                # the master does not answer for a moment while it re-executes itself
                now, failed = _processes(await self._ask("show proc"))
                if now and not now & before:
                    return
            await asyncio.sleep(_LOOK)
        raise ReloadFailed(f"{self.master_socket}: HAProxy goes on with its former configuration (see its log)")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the master, which refuses for a moment while it starts, or starts itself anew. Errors: OSError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _STARTS
        while True:
            try:
                return await asyncio.open_unix_connection(str(self.master_socket))
            except ConnectionRefusedError:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_LOOK)

    async def _first_answer(self, command: str) -> str:
        """As `_ask`, again for a while: a master that has just started resets connections. Errors: ReloadFailed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _STARTS
        while True:
            try:
                return await self._ask(command)
            except ReloadFailed:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_LOOK)

    async def _ask(self, command: str) -> str:
        """What the master answers: up to an empty line, or to its end. Errors: ReloadFailed."""
        try:
            async with asyncio.timeout(_MASTER):
                reader, writer = await self._connect()
                try:
                    writer.write(command.encode() + b"\n")
                    await writer.drain()
                    lines: list[bytes] = []
                    while (line := await reader.readline()).strip():
                        lines.append(line)
                    return b"".join(lines).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            raise ReloadFailed(f"HAProxy's master at {self.master_socket} does not answer: {error!r}") from None


def _processes(proc: str) -> tuple[set[int], bool]:
    """Out of `show proc`: the ids of the workers that take connections, and whether the last reload failed."""
    workers: set[int] = set()
    failed = False
    section = ""
    for line in proc.splitlines():
        if line.startswith("#"):
            section = line
        elif section.startswith("# workers") and (match := re.match(r"(\d+)\s+worker\b", line)):
            workers.add(int(match[1]))
        elif match := re.match(r"\d+\s+master\s+\d+\s+\[failed: (\d+)\]", line):
            failed = int(match[1]) > 0
    return workers, failed


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx. Reloads by its own command; the file tells it who is ready."""

    settings: BalancerSettings
    check_command: str = "nginx -t -q -c {file}"
    reload_command: str = "nginx -s reload -c {file}"
    checks_health = False

    def config(self, members: Sequence[Member], down: Collection[str], behind: Collection[str] = ()) -> str:
        """With the members that are `down` and `behind` marked so."""
        return nginx_config(members, self.settings, down, behind)

    async def check(self, file: Path) -> None:
        """Errors: BadConfiguration."""
        await _run_or_raise(self.check_command, file, BadConfiguration)

    async def reload(self, file: Path) -> None:
        """Errors: ReloadFailed."""
        await _run_or_raise(self.reload_command, file, ReloadFailed)
