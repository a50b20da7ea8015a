"""A real Cassandra for tests: the one that `CASSANDRA_HOSTS` names, else one started here.

Starting one takes Java 17 and Maven; its jars (67 MB) are fetched once into `data/cassandra`. Without those the
tests are skipped, saying so, or fail when REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest

_HERE = Path(__file__).parent / "cassandra"
_CACHE = Path(__file__).parents[1] / "data" / "cassandra"
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


def cassandra_with_roles() -> str:
    """`host:port` of a server of its own that asks for names and passwords; `cassandra`, `cassandra` is its first."""
    found, reason = _server_with_roles()
    return found or _none(reason)


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


def _start(lib: Path, **options: str) -> tuple[str, str]:
    root = Path(tempfile.mkdtemp(prefix="cassandra-test-"))
    port, storage = _free_port(), _free_port()
    environment = {
        **os.environ,
        "CASS_LIB": str(lib),
        "CASS_DIR": str(root),
        "CASS_PORT": str(port),
        "CASS_STORAGE_PORT": str(storage),
        **options,
    }
    log = (root / "output").open("wb")
    server = subprocess.Popen(["bash", str(_HERE / "start-cassandra.sh")], env=environment, stdout=log, stderr=log)
    log.close()
    atexit.register(_stop, server, root)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"127.0.0.1:{port}", ""
        time.sleep(0.2)
    return "", f"Cassandra does not start: {(root / 'output').read_text(errors='replace')[-300:]}"


def _stop(server: subprocess.Popen[bytes], root: Path) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    shutil.rmtree(root, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
