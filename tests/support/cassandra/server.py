"""A real Cassandra for tests: the one that `CASSANDRA_HOSTS` names, else one started here.

Starting one takes Java 17 and Maven; its jars (67 MB) are fetched once into `data/cassandra`. Without those the
tests are skipped, saying so, or fail when REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.cassandra.certificates import make_certificates
from tests.support.paths import ROOT

_HERE = ROOT / "tests" / "cassandra"
_CACHE = ROOT / "data" / "cassandra"
#: A test's server lives for seconds: code that is made better as it runs costs more than it saves.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


def _none(reason: str) -> NoReturn:
    reason += "; install openjdk-17-jre-headless and maven, or set CASSANDRA_HOSTS=host[,host][:port]"
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def cassandra_hosts() -> str:
    """`host[,host][:port]` of a server that answers. Skips or fails the test where there is none."""
    found, reason = _server()
    return found or _none(reason)


def copies() -> int:
    """How many copies a test's keyspace has: `CASSANDRA_REPLICATION`, else one."""
    return int(os.environ.get("CASSANDRA_REPLICATION", "1"))


def cassandra_with_roles() -> str:
    """`host:port` of a server of its own that asks for names and passwords; `cassandra`, `cassandra` is its first."""
    found, reason = _server_with_roles()
    return found or _none(reason)


def cassandra_with_tls() -> tuple[str, Path]:
    """(`host:port` of a server of its own that demands TLS with a client's certificate, the folder of PEM files).

    The folder holds `ca.pem`, `client.pem` and `client.key`, and of another authority `other-ca.pem`,
    `other-client.pem` and `other-client.key`.
    """
    found, reason, folder = _server_with_tls()
    return found or _none(reason), folder


@functools.cache
def _server() -> tuple[str, str]:
    """(hosts, "") or ("", why not), found out once a run."""
    if hosts := os.environ.get("CASSANDRA_HOSTS", ""):
        return hosts, ""
    lib, reason = jars()
    return ("", reason) if reason else _start(lib)


@functools.cache
def _server_with_roles() -> tuple[str, str]:
    lib, reason = jars()
    return ("", reason) if reason else _start(lib, CASS_AUTH="1")


@functools.cache
def _server_with_tls() -> tuple[str, str, Path]:
    folder = Path(tempfile.mkdtemp(prefix="cassandra-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lib, reason = jars()
    lacking = [tool for tool in ("openssl", "keytool") if shutil.which(tool) is None]
    if reason or lacking:
        return "", reason or f"no TLS for Cassandra here: {' and '.join(lacking)} not found", folder
    make_certificates(folder)
    return (*_start(lib, CASS_TLS=str(folder)), folder)


@functools.cache
def jars() -> tuple[Path, str]:
    """(the folder of Cassandra's jars, "") or (…, why they are not there)."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    lib = _CACHE / "lib"
    if missing:
        return lib, f"no Cassandra here: {' and '.join(missing)} not found"
    if not (_CACHE / "complete").exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        command = ["mvn", "-B", "-q", _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={lib}"]
        done = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, timeout=600)
        if done.returncode:
            return lib, f"Cassandra's jars cannot be fetched: {done.stdout[-300:]}"
        (_CACHE / "complete").touch()
    return lib, ""


def jars_or_skip() -> Path:
    """The folder of Cassandra's jars, for a test that starts nodes of its own. Skips or fails as `cassandra_hosts`."""
    lib, reason = jars()
    return _none(reason) if reason else lib


class Node:
    """One Cassandra process on an address of the loopback network, with a folder of its own."""

    def __init__(self, lib: Path, address: str, port: int, storage: int, **options: str) -> None:
        self.address, self.port = address, port
        self.root = Path(tempfile.mkdtemp(prefix="cassandra-test-"))
        self._environment = {
            **os.environ,
            "CASS_LIB": str(lib),
            "CASS_DIR": str(self.root),
            "CASS_ADDR": address,
            "CASS_PORT": str(port),
            "CASS_STORAGE_PORT": str(storage),
            "JDK_JAVA_OPTIONS": _SHORT_LIVED,
            **options,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to run, again too."""
        with (self.root / "output").open("ab") as log:
            script = str(_HERE / "start-cassandra.sh")
            self.process = subprocess.Popen(["bash", script], env=self._environment, stdout=log, stderr=log)

    def wait(self, seconds: float = 120) -> str:
        """Until it takes clients: "", or why it does not."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return ""
            time.sleep(0.2)
        return f"Cassandra does not start: {(self.root / 'output').read_text(errors='replace')[-300:]}"

    def kill(self) -> None:
        """As with -9: the shell has become the server."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it and forget what it held."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


def _start(lib: Path, **options: str) -> tuple[str, str]:
    node = Node(lib, "127.0.0.1", _free_port(), _free_port(), **options)
    node.start()
    atexit.register(node.stop)
    reason = node.wait()
    return ("", reason) if reason else (f"127.0.0.1:{node.port}", "")


@contextlib.contextmanager
def own_node() -> Iterator[Node]:
    """A server for a benchmark alone, whose CPU can be told. SystemExit where none can be started."""
    lib, reason = jars()
    if reason:
        raise SystemExit(reason)
    # with Java's compilers as an operator has them
    node = Node(lib, "127.0.0.1", _free_port(), _free_port(), JDK_JAVA_OPTIONS="")
    node.start()
    try:
        if reason := node.wait():
            raise SystemExit(reason)
        yield node
    finally:
        node.stop()


class ClusterOfThree:
    """Three nodes on 127.0.0.1 to 127.0.0.3, each started when the one before is up.

    Skips or fails the test as `cassandra_hosts` does.
    """

    def __init__(self) -> None:
        lib = jars_or_skip()
        port, storage = _free_port(3), _free_port(3)
        seed = f"127.0.0.1:{storage}"
        self.nodes = [Node(lib, f"127.0.0.{n}", port, storage, CASS_SEED=seed) for n in (1, 2, 3)]
        self.port = port
        try:
            for node in self.nodes:
                node.start()
                if reason := node.wait():
                    _none(reason)
        except BaseException:
            self.stop()
            raise

    @property
    def hosts(self) -> str:
        """As a store's URL names them."""
        return f"{','.join(node.address for node in self.nodes)}:{self.port}"

    def stop(self) -> None:
        """End all of them, at once."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()
            node.stop()


def _free_port(addresses: int = 1) -> int:
    """A port that is free on 127.0.0.1 and so many addresses in all."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for number in range(2, addresses + 1):
                    stack.enter_context(socket.socket()).bind((f"127.0.0.{number}", port))
            except OSError:
                continue
            return port
