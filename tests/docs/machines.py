"""Machines that are folders: the blocks of a page run on them as they are written, with few words changed.

Changed are: absolute paths (they lead into the machine's folder), the addresses `10.0.0.…` (they become addresses of
the loopback network), and what the test says in `replaced`. Commands that need root or a whole system are stand-ins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import pytest

from tests.docs.pages import Block
from tests.support.processes import clean_environment

_STAND_INS: Final = Path(__file__).parent / "stand_ins"
#: root and a whole system would be needed for these to do something
_NOTHING: Final = ("useradd",)
_FOLDERS: Final = (
    "etc/systemd/system", "etc/haproxy", "opt", "root", "run", "usr/local/src", "var/lib", "var/log", "var/tmp",
)  # fmt: skip
_PATH: Final = re.compile(r"(^|[\s\"'=])/(etc|opt|root|run|usr/local|var)/", re.MULTILINE)
_NET: Final = "10.0.0."


def required_tools(*names: str) -> None:
    """Skips the test where one of these commands is not installed, or fails it when REQUIRE_SERVERS=1."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install Debian's packages of these names"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class BlockFailed(AssertionError):
    """A block of a page did not end with exit code 0."""


class Running:
    """A block that runs, as in a terminal of its own."""

    def __init__(self, block: Block, process: asyncio.subprocess.Process, log: Path) -> None:
        self._block, self._process, self._log = block, process, log

    @property
    def printed(self) -> str:
        """All that it and what it started have printed so far."""
        return self._log.read_text(errors="replace")

    async def says(self, word: str, seconds: float = 120) -> None:
        """Wait until it has printed `word`. Errors: BlockFailed (it ended, or did not say so)."""
        deadline = asyncio.get_running_loop().time() + seconds
        while word not in self.printed:
            if self._process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise BlockFailed(f"{self._block.place} never says {word!r}\n{self.printed}")
            await asyncio.sleep(0.05)

    async def interrupt(self) -> int:
        """Press Ctrl-C; the exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        return await asyncio.wait_for(self._process.wait(), 60)


class Machines:
    """The machines of a page: `addresses` as the page has them, by name. Close it at the end."""

    def __init__(
        self, addresses: Mapping[str, str], environment: Mapping[str, str], replaced: Mapping[str, str]
    ) -> None:
        # short: the path of a socket has 108 characters at most
        self.folder = Path(tempfile.mkdtemp(prefix="docs-"))
        self.addresses = dict(addresses)
        self.net = _free_net()
        self._replaced = dict(replaced)
        self._environment = clean_environment(environment)
        self._running: list[asyncio.subprocess.Process] = []
        self._commands = self.folder / "bin"
        self._commands.mkdir()
        for script in _STAND_INS.glob("[!_]*.py"):
            self.command(script.stem, f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"')
        for name in _NOTHING:
            self.command(name, "exit 0")
        for name in addresses:
            for part in _FOLDERS:
                self.path(name, part).mkdir(parents=True)

    def command(self, name: str, text: str) -> None:
        """Have the blocks find another command of this name: `text` is its shell script."""
        file = self._commands / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def path(self, machine: str, path: str) -> Path:
        """A file of a machine."""
        return self.folder / machine / path.removeprefix("/")

    def address(self, machine: str) -> str:
        """Where a machine really is."""
        return self.net + self.addresses[machine].removeprefix(_NET)

    def adapted(self, text: str, machine: str, first: str) -> str:
        """A text of the page as `machine` needs it. `first`: the machine whose address the page shows."""
        text = re.sub(rf"{re.escape(self.addresses[first])}\b", self.addresses[machine], text)
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        text = _PATH.sub(rf"\g<1>{self.folder}/{machine}/\2/", text)
        return text.replace(_NET, self.net)

    async def run(self, block: Block, seconds: float = 120) -> str:
        """Run a block on its machines, one after another, or write its file; what it printed.

        Where there is one machine only, a block need not name it. Errors: BlockFailed, ValueError (none is named).
        """
        printed = []
        named = block.machines or (tuple(self.addresses) if len(self.addresses) == 1 else ())
        if not named:
            raise ValueError(f"{block.place} does not say on which machine it runs")
        for machine in named:
            text = self.adapted(block.text, machine, named[0])
            if block.file:
                file = self.path(machine, block.file)
                with file.open("r+" if file.exists() else "w") as out:
                    out.truncate()
                    out.write(text)
                continue
            printed.append(await self._run(block, machine, text, seconds))
        return "".join(printed)

    async def begin(self, block: Block, machine: str) -> Running:
        """Start a block that does not end by itself."""
        log = self.path(machine, "var/log/terminal.log")
        with log.open("wb") as out:
            process = await self._shell(machine, self.adapted(block.text, machine, machine), out)
        self._running.append(process)
        return Running(block, process, log)

    async def _shell(self, machine: str, text: str, out: IO[bytes] | int) -> asyncio.subprocess.Process:
        folder = self.path(machine, "")
        environment = {
            **self._environment,
            "MACHINE": str(folder), "HOME": str(folder), "CURL_HOME": str(folder),
            "PATH": f"{self._commands}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }  # fmt: skip
        return await asyncio.create_subprocess_exec(
            "bash", "-e", "-o", "pipefail", "-c", text, cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    async def _run(self, block: Block, machine: str, text: str, seconds: float) -> str:
        process = await self._shell(machine, text, subprocess.PIPE)
        try:
            async with asyncio.timeout(seconds):
                out, _ = await process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise BlockFailed(f"{block.place} on {machine}: no end within {seconds:g} s\n{text}{self.logs()}") from None
        printed = out.decode(errors="replace")
        if process.returncode != 0:
            raise BlockFailed(
                f"{block.place} on {machine}: exit code {process.returncode}\n{text}\n{printed}{self.logs()}"
            )
        return printed

    def logs(self) -> str:
        """The last lines of each service."""
        found = []
        for log in sorted(self.folder.glob("*/var/log/*.log")):
            lines = log.read_text(errors="replace").splitlines()[-8:]
            found.append(f"--- {log.relative_to(self.folder)}\n" + "\n".join(lines))
        return "\n" + "\n".join(found)

    def close(self) -> None:
        """End every service, and remove the folders."""
        services = [int(file.read_text()) for file in self.folder.glob("*/run/*.pid-of-unit")]
        for group in [*services, *(process.pid for process in self._running)]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_net() -> str:
    """The first three numbers of addresses of the loopback network that nobody uses, and a dot."""
    while True:
        net = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}."
        with socket.socket() as probe:
            if probe.connect_ex((f"{net}41", 1234)):
                return net
