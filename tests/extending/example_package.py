"""The example package, installed as a user would, into a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "lotus-follower-example"


def install(folder: Path, source: Path = EXAMPLE) -> dict[str, str]:
    """Install `source` into `folder`; the environment in which it is found. Needs no network."""
    # building leaves files in the source
    copy = folder / "source"
    shutil.copytree(source, copy)
    target = folder / "installed"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--target", str(target), str(copy),
        ],
        check=True, timeout=120,
    )  # fmt: skip
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "EXAMPLE_COUNTS": str(folder / "counts.sqlite")}


def write_package(folder: Path, name: str, group: str, entry: str, module: str) -> dict[str, str]:
    """A package `name` as it stands installed: one module of this text, one entry point (`name = value`)."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    (folder / f"{name.replace('-', '_')}.py").write_text(module)
    return {"PYTHONPATH": str(folder)}
