"""Processor time of the server's processes, where the server runs on this machine (Linux: from /proc)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
#: a socket that listens, in /proc/net/tcp
_LISTENING: Final = "0A"


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time that these processes have used so far; one that has ended counts 0."""
    total = 0
    for pid in pids:
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def is_local(host: str) -> bool:
    """Whether a host is this machine: whether one of its addresses can be bound to. Errors: OSError (no such host)."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as one:
            try:
                one.bind(address)
            except OSError:
                continue
            return True
    return False


def listening_pids(port: int) -> list[int]:
    """The processes of this machine, of those that we may look at, that listen on a TCP port."""
    inodes = set(_inodes(port))
    if not inodes:
        return []
    return [pid for pid in _processes() if inodes & set(_sockets(pid))]


def with_children(pids: Sequence[int]) -> list[int]:
    """These processes and all below them, as they are now."""
    below: dict[int, list[int]] = {}
    for pid in _processes():
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below.setdefault(int(fields[1]), []).append(pid)
    found = list(dict.fromkeys(pids))
    for pid in found:
        found += [child for child in below.get(pid, ()) if child not in found]
    return found


def _processes() -> Iterator[int]:
    if _PROC.is_dir():
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"


def _sockets(pid: int) -> Iterator[str]:
    try:
        entries = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        # another user's, or it has ended
        return
    for entry in entries:
        try:
            yield os.readlink(entry)
        except OSError:
            continue
