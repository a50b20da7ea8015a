"""A load on an RPC server, and what it took: requests a second, latencies, the server's CPU time.

    load("http://127.0.0.1:1234/rpc/v1", [body, …], pids=[server_pid])

Uses `wrk` where it is installed, else a client of its own (which is the limit itself beyond about 15,000
requests a second). CPU time is read from /proc, so it is there on Linux only.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
local at = 0
function request()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests":%%d,"seconds":%%f,"p50":%%f,"p99":%%f,"errors":%%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What a load showed. Times in seconds; `cpu` is the server's, over the whole run."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    cpu: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpu_each(self) -> float:
        """Seconds of the server's CPU time a request."""
        return self.cpu / self.requests if self.requests else 0.0

    def row(self, name: str) -> str:
        """One line of a table."""
        return (
            f"{name:44} {self.rate:10,.0f}/s  p50 {self.p50 * 1e3:8.2f} ms  p99 {self.p99 * 1e3:8.2f} ms"
            f"  {self.cpu_each * 1e6:8.1f} us CPU each" + (f"  {self.errors} ERRORS" if self.errors else "")
        )


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that these processes and their threads have used so far (0 where /proc is not there)."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def load(
    url: str,
    bodies: Sequence[bytes],
    *,
    pids: Sequence[int] = (),
    seconds: float = 3.0,
    connections: int = 32,
    takes_gzip: bool = False,
) -> Load:
    """Post `bodies` in turn for a while. They must hold no line feed. Errors: CalledProcessError (wrk)."""
    if not bodies or any(b"\n" in body for body in bodies):
        raise ValueError("bodies must be there, and on one line each")
    before = cpu_seconds(pids)
    if shutil.which("wrk"):
        result = _with_wrk(url, bodies, seconds, connections, takes_gzip)
    else:
        result = asyncio.run(_with_asyncio(url, bodies, seconds, connections, takes_gzip))
    return Load(**result, cpu=cpu_seconds(pids) - before)


def recorded_bodies(records: Path, method: str, *, path: str = "/rpc/v1", limit: int = 500) -> list[bytes]:
    """Request bodies of a method from a recording (`rpc.jsonl.zst`) whose answers were no errors."""
    import orjson
    import zstandard

    bodies: list[bytes] = []
    with zstandard.open(records, "rt", encoding="utf-8") as lines:
        for line in lines:
            if method not in line:
                continue
            call = orjson.loads(line)
            if call["method"] == method and call["path"] == path and "error" not in call:
                request = {"jsonrpc": "2.0", "id": len(bodies) + 1, "method": method, "params": call["params"]}
                bodies.append(orjson.dumps(request))
                if len(bodies) == limit:
                    break
    return bodies


def _with_wrk(url: str, bodies: Sequence[bytes], seconds: float, connections: int, takes_gzip: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder, "bodies"), Path(folder, "load.lua")
        lines.write_bytes(b"\n".join(bodies) + b"\n")
        script.write_text(_SCRIPT % (lines, 'wrk.headers["Accept-Encoding"] = "gzip"' if takes_gzip else ""))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, float] = json.loads(line[7:])
            return found
    raise RuntimeError(f"wrk printed no result:\n{out}")


async def _with_asyncio(
    url: str, bodies: Sequence[bytes], seconds: float, connections: int, takes_gzip: bool
) -> dict[str, Any]:
    parts = urlsplit(url)
    lines = "Accept-Encoding: gzip\r\n" if takes_gzip else ""
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}Content-Length: ".encode()
    took: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def one(first: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        at = first
        while (started := time.perf_counter()) < end:
            body = bodies[at % len(bodies)]
            at += 1
            writer.write(head + b"%d\r\n\r\n" % len(body) + body)
            start = await reader.readuntil(b"\r\n\r\n")
            length = next(
                v for k, _, v in (ln.partition(b": ") for ln in start.split(b"\r\n")) if k == b"Content-Length"
            )
            await reader.readexactly(int(length))
            took.append(time.perf_counter() - started)
            errors += not start.startswith(b"HTTP/1.1 200")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(connections)))
    took.sort()
    return {
        "requests": len(took),
        "seconds": time.perf_counter() - began,
        "p50": took[len(took) // 2],
        "p99": took[int(len(took) * 0.99)],
        "errors": errors,
    }


@contextmanager
def server_process(serve: Callable[[int], None], port: int) -> Iterator[int]:
    """Run `serve(port)`, which never returns, in a process of its own; gives its id once it accepts."""
    pid = os.fork()
    if pid == 0:
        try:
            serve(port)
        finally:
            os._exit(1)
    try:
        _wait_for(port)
        yield pid
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def _wait_for(port: int) -> None:
    import socket

    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def free_port() -> int:
    """A port that was free a moment ago."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
