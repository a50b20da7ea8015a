"""What `follower up` shows until it is ready: the bridge's progress, lines of its processes, a bar on a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blockstore.bridge_rows import BridgeRow, put_bridge
from blockstore.open import open_store
from blockstore.store import Batch
from follower import first_steps
from follower.first_steps import watch_bridge
from follower.supervisor import Child, Supervisor
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, free_port
from tests.support.recorded import recorded


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def phase(self, what: str, total: int | None, unit: str) -> None:
        self.lines.append(f"{what} of {total} {unit}")

    def at(self, done: int, note: str = "") -> None:
        if self.lines[-1] != str(done):
            self.lines.append(str(done))

    def say(self, text: str) -> None:
        self.lines.append(text)

    def end(self) -> None:
        if self.lines[-1] != "end":
            self.lines.append("end")

    async def has(self, line: str) -> None:
        async with asyncio.timeout(30):
            while self.lines[-1:] != [line]:
                await asyncio.sleep(0.005)


async def test_the_first_state_and_the_backfill_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_steps, "_NO_BACKFILL_SECONDS", 0.1)
    told, ready = Told(), asyncio.Event()
    watching = asyncio.create_task(watch_bridge(f"lmdb://{tmp_path}/store", told, ready, poll_seconds=0.01))
    await asyncio.sleep(0.05)  # there is no store yet, and that is no error
    store = await open_store(f"lmdb://{tmp_path}/store", map_size=1 << 24)

    async def tell(height: int, fetched: int, left: int) -> None:
        batch = Batch()
        put_bridge(batch, BridgeRow("one", True, 1, height, 7, "full", left, fetched=fetched))
        await store.write(batch)

    await tell(-1, 0, 0)
    await tell(-1, 1200, 0)
    await told.has("1200")
    await tell(-1, 5000, 0)
    await told.has("5000")
    ready.set()
    await tell(7, 5000, 20)
    await told.has("0")
    await tell(7, 6000, 5)
    await told.has("15")
    await tell(7, 6000, 0)
    await asyncio.wait_for(watching, 30)
    assert told.lines == [
        "first state of None objects", "1200", "5000", "backfill of 20 epochs", "0", "15", "20", "end",
    ]  # fmt: skip
    await store.close()


async def test_a_backfill_that_stands_still_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_steps, "_STILL_SECONDS", 0.1)
    store = await open_store(f"lmdb://{tmp_path}/store", map_size=1 << 24)
    batch = Batch()
    put_bridge(batch, BridgeRow("one", True, 1, 7, 7, "lazy", 20))
    await store.write(batch)
    ready = asyncio.Event()
    ready.set()
    await asyncio.wait_for(watch_bridge(f"lmdb://{tmp_path}/store", Told(), ready, poll_seconds=0.01), 30)
    await store.close()


async def test_lines_of_children_are_relayed() -> None:
    lines: list[str] = []
    supervisor = Supervisor([Child("config", ["config"], {"FOLLOWER_LISTEN": "127.0.0.1:7"})], relay=lines.append)
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(60):
        while not any("127.0.0.1:7" in line for line in lines):
            await asyncio.sleep(0.01)
    supervisor.stop()
    await running


@pytest.mark.recorded
def test_a_terminal_gets_bars_and_whole_lines(tmp_path: Path) -> None:
    folder = recorded("devnet/chain.car.zst").parent
    node, port = free_port(), free_port()
    replayed = [
        sys.executable, "-m", "follower.cli", "replay", str(folder), "--listen", f"127.0.0.1:{node}", "--at-end",
        "--delay", "0.1",
    ]  # fmt: skip
    followed = [
        sys.executable, "-m", "follower.cli", "up", "--node", f"http://127.0.0.1:{node}",
        "--listen", f"127.0.0.1:{port}",
        "--store", f"lmdb://{tmp_path}/store", "--network-file", str(folder / "network.json"),
        "--ready-head-age-epochs", "0", "--backfill-epochs", "400",
    ]  # fmt: skip
    ours, theirs = pty.openpty()
    environment = clean_environment({"TERM": "xterm", "COLUMNS": "160"})
    with subprocess.Popen(replayed, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as replaying:
        following = subprocess.Popen(followed, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = ""
        try:
            deadline = time.monotonic() + 120
            while not ("ready after" in shown and "backfill" in shown and "epochs/s" in shown):
                assert time.monotonic() < deadline, shown
                shown += os.read(ours, 65536).decode(errors="replace")
        finally:
            following.send_signal(signal.SIGINT)
            replaying.terminate()
            try:
                while part := os.read(ours, 65536):
                    shown += part.decode(errors="replace")
            except OSError:
                pass  # the terminal is closed when its last process has ended
            os.close(ours)
    assert following.wait(60) == 0, shown
    assert "the store is empty: it begins at epoch" in shown
    assert "Traceback" not in shown
