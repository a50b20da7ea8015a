"""A real PostgreSQL for tests, in a folder of its own, on a socket there: nobody else reaches it.

Its programs are those of the path, or of Debian's package (`/usr/lib/postgresql/VERSION/bin`). Without them the tests
are skipped, saying so, or fail when REQUIRE_SERVERS=1. It refuses to be run by root: then it runs as another user.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

#: users of Debian that may own a database; the first is made by the package
_USERS: Final = ("postgres", "nobody")
_SECONDS: Final = 120
_numbers = itertools.count(1)

#: the one user of the server, and its password
USER: Final = "analyst"
PASSWORD: Final = secrets.token_hex(12)


def postgres_url() -> str:
    """`postgresql://…` of a new database. Skips or fails the test where there is no PostgreSQL."""
    programs = _programs()
    if programs is None:
        reason = "initdb and pg_ctl not found; install Debian's package postgresql"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = _started(programs)
    name = f"tables{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(_url(folder, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]  # a name of ours
    return _url(folder, name)


def _url(folder: Path, database: str) -> str:
    return f"postgresql://{USER}:{PASSWORD}@/{database}?host={folder}"


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "initdb").exists() and (one / "pg_ctl").exists()), None)


@functools.cache
def _started(programs: Path) -> Path:
    """Start a server, once a process; the folder of its socket. Errors: AssertionError, with its log."""
    # short: the path of a socket has 108 characters at most
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, "timeout": _SECONDS}
    if os.geteuid() == 0:
        owner = _owner()
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"
    made = subprocess.run(
        [
            programs / "initdb", "--pgdata", data, "--username", USER, "--pwfile", password, "--auth", "scram-sha-256",
            "--no-sync", "--encoding", "UTF8", "--locale", "C",
        ],
        **options,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    password.unlink()
    flags = f"-k {folder} -c listen_addresses='' -c fsync=off"
    log = folder / "log"
    stop = [programs / "pg_ctl", "--pgdata", data, "--mode", "immediate", "stop"]
    # pg_ctl's children keep its output open
    options |= {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(subprocess.run, stop, **options)
    begun = subprocess.run(
        [programs / "pg_ctl", "--pgdata", data, "--log", log, "--options", flags, "--wait", "start"], **options
    )
    assert begun.returncode == 0, log.read_text() if log.exists() else "pg_ctl does not start"
    return folder


def _owner() -> pwd.struct_passwd:
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError(f"PostgreSQL is not run by root, and none of the users {', '.join(_USERS)} is here")
