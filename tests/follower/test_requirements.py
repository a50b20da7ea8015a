"""The lock files agree with pyproject.toml, and the audit of them can fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT
from tests.support.processes import free_port

LOCKS = ROOT / "requirements"


def pins(name: str) -> dict[str, Version]:
    """The versions in a lock file that hold on this machine."""
    found: dict[str, Version] = {}
    for line in (LOCKS / name).read_text().splitlines():
        if line[:1].isalnum():
            one = Requirement(line.removesuffix("\\").strip())
            if one.marker is None or one.marker.evaluate():
                (specifier,) = one.specifier
                found[canonicalize_name(one.name)] = Version(specifier.version)
    return found


def declared(group: str = "") -> list[Requirement]:
    """The requirements of the project, or of a dependency group with those that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if not group:
        return [Requirement(text) for text in project["project"]["dependencies"]]
    found: list[Requirement] = []
    for item in project["dependency-groups"][group]:
        found += [Requirement(item)] if isinstance(item, str) else declared(item["include-group"])
    return found


def declared_extra(name: str) -> list[Requirement]:
    """The requirements of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(one) for one in project["optional-dependencies"][name]]


@pytest.mark.parametrize("lock", ["run.txt", "build.txt", "dev.txt", "lowest.txt", "workers.txt"])
def test_a_lock_holds_what_is_declared_with_hashes_and_no_address(lock: str) -> None:
    locked = pins(lock)
    groups = {"run.txt": "", "build.txt": "build", "dev.txt": "dev", "lowest.txt": "test", "workers.txt": ""}
    wanted = [] if lock == "build.txt" else declared()
    wanted += declared(groups[lock]) if groups[lock] else []
    wanted += declared_extra("workers") if lock == "workers.txt" else []
    for one in wanted:
        assert locked[canonicalize_name(one.name)] in one.specifier, f"{one}: run `make lock`"
    text = (LOCKS / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^[a-z0-9][^\n]*[^\\]\n(?!    --hash)", text, re.MULTILINE), "a pin without a hash"


def test_every_library_has_a_lowest_and_a_next_major_version() -> None:
    lowest = pins("lowest.txt")
    for one in declared():
        bounds = {specifier.operator: Version(specifier.version) for specifier in one.specifier}
        assert set(bounds) == {">=", "<"}, one
        # the bound is a version that exists, and so the one that `make test-lowest` runs with
        assert lowest[canonicalize_name(one.name)].release[: len(bounds[">="].release)] == bounds[">="].release, one


@pytest.mark.parametrize("lock", ["run.txt", "build.txt"])
def test_the_locks_agree(lock: str) -> None:
    some, dev = pins(lock), pins("dev.txt")
    assert {name: dev[name] for name in some} == some


# --- the audit -------------------------------------------------------------------------------------------


@pytest.fixture
def database() -> Iterator[tuple[str, dict[str, Any]]]:
    """A database of vulnerabilities that speaks OSV's protocol: its URL, and its answers by package."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answers.get(query["package"]["name"], {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query", answers
    server.shutdown()
    thread.join()
    server.server_close()


def run_audit(url: str, lock: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LOCKS / "audit.py"), "--osv-url", url, str(lock)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def small_lock(tmp_path: Path) -> Path:
    """Two packages of the lock file."""
    lines = (LOCKS / "run.txt").read_text().splitlines(keepends=True)
    kept: list[str] = []
    for name in ("aiosignal", "mdurl"):
        start = next(at for at, line in enumerate(lines) if line.startswith(name + "=="))
        end = next(at for at in range(start + 1, len(lines)) if not lines[at].startswith("    --hash"))
        kept += lines[start:end]
    file = tmp_path / "lock.txt"
    file.write_text("".join(kept))
    return file


def test_a_known_vulnerability_fails_the_audit(database: tuple[str, dict[str, Any]], small_lock: Path) -> None:
    url, answers = database
    assert run_audit(url, small_lock).stdout == "audit: 2 packages, no known vulnerability\n"
    affected = {
        "package": {"name": "mdurl", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
    }
    answers["mdurl"] = {"vulns": [{"id": "PYSEC-2026-1", "summary": "bad", "affected": [affected]}]}
    done = run_audit(url, small_lock)
    assert done.returncode == 1
    assert f"mdurl {pins('run.txt')['mdurl']}: PYSEC-2026-1, fixed in 99.1" in done.stdout


def test_without_a_database_the_audit_says_that_nothing_was_checked(small_lock: Path) -> None:
    done = run_audit(f"http://127.0.0.1:{free_port()}/v1/query", small_lock)
    assert done.returncode == 0
    assert done.stdout.startswith("audit: NOT CHECKED: no database")


def test_an_audit_that_cannot_run_fails(tmp_path: Path) -> None:
    bad = tmp_path / "lock.txt"
    bad.write_text("mdurl==0.1.2\n")  # no hash
    assert run_audit("http://127.0.0.1:1/", bad).returncode == 2
