"""`systemctl` for a machine that is a folder: it starts what a unit's ExecStart says, with its environment.

The unit is that of the folder's /etc/systemd/system, else the real machine's (HAProxy's). A service of the type
`notify` has started when it says so. Sandboxing, users and restarts of a service that ends are left to systemd itself.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MACHINE = Path(os.environ["MACHINE"])
START_SECONDS = 90.0
STOP_SECONDS = 60.0


def in_machine(text: str) -> str:
    """The text with absolute paths that lead into the machine's folder."""
    return re.sub(r"(^|[\s\"'=-])/(etc|opt|run|var)/", rf"\1{MACHINE}/\2/", text, flags=re.MULTILINE)


def read_unit(name: str) -> dict[str, list[str]]:
    """The lines of a unit's [Service], by key."""
    for folder in (MACHINE / "etc/systemd/system", Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")):
        if (folder / f"{name}.service").exists():
            break
    else:
        sys.exit(f"Failed to start {name}.service: Unit {name}.service not found.")
    found: dict[str, list[str]] = {}
    for line in in_machine((folder / f"{name}.service").read_text()).splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def environment(unit: dict[str, list[str]]) -> dict[str, str]:
    """What the service gets: this environment, then the unit's, then its files'."""
    variables = dict(os.environ)
    for line in unit.get("Environment", []):
        variables.update(word.split("=", 1) for word in shlex.split(line))
    for name in unit.get("EnvironmentFile", []):
        file = Path(name.removeprefix("-"))
        if not file.exists() and name.startswith("-"):
            continue
        for line in file.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                key, _, value = line.partition("=")
                variables[key] = value
    return variables


def start(name: str) -> None:
    if is_running(name):
        return
    unit = read_unit(name)
    variables = environment(unit)
    words: list[str] = []
    for word in shlex.split(unit["ExecStart"][-1]):
        variable = re.fullmatch(r"\$(\w+)", word)
        words += shlex.split(variables.get(variable[1], "")) if variable else [word]
    folder = Path(unit.get("WorkingDirectory", [str(MACHINE)])[-1])
    folder.mkdir(parents=True, exist_ok=True)
    # a path of its own: that of a socket may have 107 bytes, and the machine's folder is longer
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, tempfile.TemporaryDirectory() as place:
        notified.bind(f"{place}/notify")
        tells = unit.get("Type", [""])[-1] == "notify"
        if tells:
            variables["NOTIFY_SOCKET"] = f"{place}/notify"
        with log_file(name).open("ab") as log:
            process = subprocess.Popen(
                words, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        pid_file(name).write_text(str(process.pid))
        if tells:
            await_ready(name, process, notified)


def await_ready(name: str, process: subprocess.Popen[bytes], notified: socket.socket) -> None:
    """Wait until a service says that it is ready, as systemd does."""
    deadline = time.monotonic() + START_SECONDS
    notified.settimeout(0.1)
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if b"READY=1" in notified.recv(4096).splitlines():
                return
        except TimeoutError:
            continue
    sys.exit(f"Job for {name}.service failed: it has not said that it is ready")


def stop(name: str) -> None:
    if not is_running(name):
        return
    process = int(pid_file(name).read_text())
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_running(name):
        if time.monotonic() > deadline:
            sys.exit(f"{name}.service does not stop")
        time.sleep(0.05)
    pid_file(name).unlink()


def is_running(name: str) -> bool:
    """Whether its process is there and no zombie."""
    try:
        stat = Path("/proc", pid_file(name).read_text(), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def pid_file(name: str) -> Path:
    return MACHINE / "run" / f"{name}.pid-of-unit"


def log_file(name: str) -> Path:
    return MACHINE / "var" / "log" / f"{name}.log"


def main(words: list[str]) -> None:
    verb, names = words[0], [word.removesuffix(".service") for word in words[1:] if not word.startswith("--")]
    if verb == "daemon-reload":
        return
    at_once = verb in ("start", "stop", "restart") or "--now" in words
    if verb not in ("enable", "disable", "start", "stop", "restart"):
        sys.exit(f"Unknown command verb {verb}.")
    for name in names:
        read_unit(name)
        if at_once and verb in ("disable", "stop", "restart"):
            stop(name)
        if at_once and verb in ("enable", "start", "restart"):
            start(name)


if __name__ == "__main__":
    main(sys.argv[1:])
