"""The follower under attack: one real process over a store on disk, and what /proc says of it. Linux only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.attack.wire import HOST, call
from tests.support.paths import ROOT
from tests.support.recorded import recorded

#: actors in the state that `list-actors` lists
ACTORS = 60_000
#: seconds for a server to answer, and to end
_READY_SECONDS = 60.0
_STOP_SECONDS = 60.0
#: seconds to compile the actors' code on a busy machine
_COMPILED_SECONDS = 300.0


def follower(*arguments: str) -> list[str]:
    """The command line of a `follower` subcommand."""
    return [sys.executable, "-m", "follower.cli", *arguments]


def import_into(folder: Path, car: Path, network: Path) -> str:
    """The URL of a store with a chain imported. Errors: CalledProcessError."""
    url = f"lmdb://{folder}"
    command = follower("import", str(car), "--network", str(network), "--store", url)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return url


def recorded_store(folder: Path) -> str:
    """A store with the recorded chain of `devnet`."""
    return import_into(folder, recorded("devnet/chain.car.zst"), recorded("devnet/network.json"))


def many_actors_store(folder: Path) -> str:
    """A store with a simulated chain whose state has `ACTORS` actors."""
    from benches.simulated_car import write_car
    from devnode.sim_chain import SimSettings

    car = folder / "many.car"
    write_car(car, 1, SimSettings.for_size(ACTORS, 100))
    try:
        return import_into(folder / "store", car, car.with_name("many.car.network.json"))
    finally:
        car.unlink()


@dataclass
class Served:
    """A running follower."""

    pid: int
    port: int
    #: what it has logged
    log: Path

    def resident_bytes(self) -> int:
        """Memory in use now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        """The most anonymous memory since the start: what LMDB maps is the kernel's cache, not the process's."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        peak = int(text.partition("VmHWM:")[2].split()[0]) << 10
        mapped = int(text.partition("RssFile:")[2].split()[0]) << 10
        return peak - mapped

    def open_files(self) -> int:
        """File descriptors now."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def settled_files(self, wanted: int, seconds: float) -> int:
        """File descriptors once they are down to `wanted`, or when `seconds` are over."""
        end = time.monotonic() + seconds
        while (found := self.open_files()) > wanted and time.monotonic() < end:
            time.sleep(0.1)
        return found


@contextmanager
def served(store: str, folder: Path, *arguments: str) -> Iterator[Served]:
    """A follower of one worker over `store`, which logs into `folder`; it must end in order.

    Errors: TimeoutError, AssertionError.
    """
    port = free_port()
    # addresses of this machine are clients here, not balancers: each has its own share
    options = ["--listen", f"{HOST}:{port}", "--log-level", "warning", "--trusted-proxies", "192.0.2.0/24"]
    command = follower("serve", "--store", store, *options, *arguments)
    log = folder / f"{port}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        _wait_for(port, process)
        yield Served(process.pid, port, log)
        assert process.poll() is None, f"the follower ended with exit code {process.returncode}"
        process.terminate()
        assert process.wait(_STOP_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


class PeakOfChildren:
    """The most memory that a child of a process had, looked at five times a second while the block runs."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._children = Path(f"/proc/{pid}/task/{pid}/children")
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakOfChildren:
        self._watching.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for pid in self._children.read_text().split():
                # one that ends is another one's turn
                with suppress(OSError, IndexError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    self.peak_bytes = max(self.peak_bytes, int(status.partition("VmHWM:")[2].split()[0]) << 10)


def wait_until_it_executes(served: Served) -> None:
    """Wait for a first `eth_call`: the actors' code is compiled by then. Errors: TimeoutError."""
    end = time.monotonic() + _COMPILED_SECONDS
    url = f"http://{HOST}:{served.port}/rpc/v1"
    while time.monotonic() < end:
        request = urllib.request.Request(url, call("eth_call", {"data": "0x00"}, "latest"))
        with urllib.request.urlopen(request, timeout=60) as answer:
            if b'"result"' in answer.read():
                return
        time.sleep(0.5)
    raise TimeoutError(f"the follower executes nothing: {served.log.read_text()[-2000:]}")


@contextmanager
def silent_node() -> Iterator[str]:
    """The URL of a node that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1024)
        yield f"http://{HOST}:{listener.getsockname()[1]}/rpc/v1"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"no follower answers at port {port}") from None
            time.sleep(0.05)
