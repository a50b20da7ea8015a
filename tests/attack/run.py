"""One attack on one fresh follower, seen by a witness: what came of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attack import server
from tests.support.paths import ROOT

#: what is promised while an attack runs
MAX_PEAK_BYTES = 700 << 20
MAX_EXECUTOR_BYTES = 700 << 20
MAX_P99_SECONDS = 0.025
#: what a stranger may make a follower log in one attack
MAX_LOG_BYTES = 256 << 10
#: attacks on a follower that executes
EXECUTING = frozenset({"hostile-calls", "endless-calls"})
#: seconds for the server to close what an attacker has left behind
_SETTLE_SECONDS = 20.0
#: file descriptors that may stay: caches of the store, the witness's last connection
_FILES_OVER = 8


@dataclass
class Result:
    """Times in seconds, sizes in bytes. `attack` counts what the attacker saw, `witness` is the witness's report."""

    name: str
    witness: dict[str, Any]
    attack: dict[str, int]
    peak_bytes: int
    files_before: int
    files_after: int
    executor_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        """A line of the table in docs/security.md."""
        seen = ", ".join(f"{count:,} {what}" for what, count in sorted(self.attack.items())) or "nothing"
        executor = f" + {self.executor_bytes >> 20}" if self.executor_bytes else ""
        return (
            f"| {self.name} | {self.witness['failed']} of {self.witness['asked']:,} "
            f"| {self.witness['p50'] * 1e3:.1f} | {self.witness['p99'] * 1e3:.1f} | {self.witness['worst'] * 1e3:.0f} "
            f"| {self.peak_bytes >> 20}{executor} | {seen} |"
        )


class Stores:
    """The stores that attacks run over, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, str] = {}

    def store_of(self, name: str) -> str:
        """The store that the attack `name` needs."""
        kind = "many" if name == "list-actors" else "recorded"
        if kind not in self._made:
            folder = self.folder / kind
            folder.mkdir()
            make = server.many_actors_store if kind == "many" else server.recorded_store
            self._made[kind] = make(folder)
        return self._made[kind]


def attack(name: str, stores: Stores, seconds: float) -> Result:
    """Run one. Errors: AssertionError, where the follower does not live on; CalledProcessError."""
    with contextlib.ExitStack() as stack:
        more: list[str] = []
        if name == "forwarded":
            more = ["--node", stack.enter_context(server.silent_node())]
        executes = name in EXECUTING
        more += ["--execution", "on" if executes else "off"]
        follower = stack.enter_context(server.served(stores.store_of(name), stores.folder, *more))
        executor = server.PeakOfChildren(follower.pid)
        if executes:
            server.wait_until_it_executes(follower)
            stack.enter_context(executor)
        _report(["tests.attack.witness", str(follower.port), "0.5"])  # the caches of a server that was just started
        before = follower.open_files()
        attacker = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.cases", name, str(follower.port), str(seconds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        try:
            witness = _report(["tests.attack.witness", str(follower.port), str(seconds)])
            out, _ = attacker.communicate(timeout=seconds + 120)
        finally:
            attacker.kill()
        peak, after = follower.peak_bytes(), follower.settled_files(before + _FILES_OVER, _SETTLE_SECONDS)
    result = Result(name, witness, json.loads(out), peak, before, after, executor.peak_bytes)
    if executor.peak_bytes > MAX_EXECUTOR_BYTES:
        result.faults.append(f"the executor took {executor.peak_bytes >> 20} MiB, more than {MAX_EXECUTOR_BYTES >> 20}")
    if executes and not result.attack.get("answered", 0) + result.attack.get("ended at a bound", 0):
        result.faults.append("no hostile call was executed")
    if witness["failed"]:
        result.faults.append(f"{witness['failed']} of the witness's requests failed: {witness['failures']}")
    if peak > MAX_PEAK_BYTES:
        result.faults.append(f"the follower took {peak >> 20} MiB, more than {MAX_PEAK_BYTES >> 20}")
    if after > before + _FILES_OVER:
        result.faults.append(f"{after} file descriptors are open afterwards, {before} were before")
    if result.attack.get("wrong"):
        result.faults.append(f"{result.attack['wrong']} answers to the attacker were no answers")
    if (logged := follower.log.stat().st_size) > MAX_LOG_BYTES:
        result.faults.append(f"the attack made the follower log {logged >> 10} KiB, more than {MAX_LOG_BYTES >> 10}")
    return result


def too_slow(result: Result) -> str | None:
    """What is wrong with the witness's latency, where it is: judged on a quiet machine only."""
    if result.witness["p99"] <= MAX_P99_SECONDS:
        return None
    return f"p99 of ChainHead was {result.witness['p99'] * 1e3:.0f} ms, more than {MAX_P99_SECONDS * 1e3:.0f}"


def _report(module: list[str]) -> dict[str, Any]:
    out = subprocess.run([sys.executable, "-m", *module], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    report: dict[str, Any] = json.loads(out)
    return report
