"""`follower` subcommands as real processes, in an environment without settings of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from tests.support.paths import ROOT
from tests.support.proxies import free_port

__all__ = ["FollowerProcess", "clean_environment", "follower_process", "free_port", "run_follower"]


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any setting of a follower, and `more`.

    Nothing is executed unless a test asks for it: compiling the actors' code takes each process 15 s of CPU time. No
    object of a shared store is kept on disk: tests would find those of others. Little is read ahead at a start.
    """
    own = {"FOLLOWER_OBJECT_TIER_DIR": "off", "FOLLOWER_START_AHEAD_SECONDS": "1"}
    return {**_plain_environment(), **own, **(more or {})}


def _plain_environment() -> dict[str, str]:
    """An environment that older versions take too: with no setting that they do not know."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FOLLOWER_", "FULLNODE_"))}
    return {**kept, "FOLLOWER_EXECUTION": "off"}


def run_follower(
    *arguments: str, timeout: float = 120, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a subcommand to its end. `timeout` in seconds."""
    return subprocess.run(
        [sys.executable, "-m", "follower.cli", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=clean_environment(environment),
    )  # fmt: skip


class FollowerProcess:
    """A subcommand that runs; `output` is all that it and its children have printed and logged so far."""

    def __init__(
        self, arguments: tuple[str, ...], log: IO[bytes], environment: Mapping[str, str] | None, root: Path = ROOT
    ) -> None:
        self._log = log
        self._ended: str | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "follower.cli", *arguments],
            cwd=root, stdout=log, stderr=log,
            env=clean_environment(environment) if root == ROOT else {**_plain_environment(), **(environment or {})},
        )  # fmt: skip

    def output(self) -> str:
        """Standard output and error, as one text; after the block too."""
        if self._ended is not None:
            return self._ended
        with open(self._log.name, errors="replace") as file:
            return file.read()

    def close(self) -> None:
        """Keep the output beyond the life of its file."""
        self._ended = self.output()

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 90) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout)


@contextlib.contextmanager
def follower_process(
    *arguments: str, environment: Mapping[str, str] | None = None, root: Path = ROOT
) -> Iterator[FollowerProcess]:
    """Start a subcommand of the checkout at `root`; it is stopped with the block.

    Its output is printed where the block fails.
    """
    with tempfile.NamedTemporaryFile("wb", prefix="follower-", suffix=".log") as log:
        running = FollowerProcess(arguments, log, environment, root)
        try:
            yield running
        except BaseException:
            print(f"--- output of follower {' '.join(arguments)}\n{running.output()}")
            raise
        finally:
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            running.close()
