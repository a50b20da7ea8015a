"""Real HAProxy and nginx for tests: started on free ports with a configuration of ours, which is checked first."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from loadbalancer.control import Haproxy, Nginx
from loadbalancer.settings import BalancerSettings

KINDS = ("haproxy", "nginx")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def required(kind: str) -> None:
    """Skips the test where this proxy is not installed, or fails it when REQUIRE_SERVERS=1."""
    if shutil.which(kind) is None:
        reason = f"{kind} not found; install Debian's packages haproxy and nginx-light"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class Proxy:
    """One proxy process (a master and its workers) and its folder."""

    def __init__(self, kind: str, certificate: str = "") -> None:
        required(kind)
        self.kind = kind
        # short, for the path of a socket has 108 characters at most; open, for nginx' workers are another user's
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-"))
        self.folder.chmod(0o755)
        self.file = self.folder / f"{kind}.conf"
        self.port = free_port()
        settings = BalancerSettings(f"127.0.0.1:{self.port}", certificate, str(self.folder))
        self.balancer: Haproxy | Nginx
        self.balancer = Haproxy(settings, self.folder / "master.sock") if kind == "haproxy" else Nginx(settings)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The v1 endpoint through the proxy."""
        return f"http://127.0.0.1:{self.port}/rpc/v1"

    def start(self) -> None:
        """Run it with `file`, and wait until it takes connections."""
        words = (
            ["haproxy", "-Ws", "-S", str(self.folder / "master.sock"), "-f", str(self.file)]
            if self.kind == "haproxy"
            else ["nginx", "-e", "stderr", "-c", str(self.file), "-g", "daemon off;"]
        )
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._listens():
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not start: {self.log()}")

    def _listens(self) -> bool:
        with socket.socket() as probe, socket.socket(socket.AF_UNIX) as master:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            # HAProxy's master listens a moment later than its workers
            return self.kind != "haproxy" or master.connect_ex(str(self.folder / "master.sock")) == 0

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End it at once, with all its workers."""
        if self.process is not None:
            # HAProxy's and nginx' masters end their workers at SIGTERM without waiting for connections
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
