"""The project installed from its wheel, in an environment that knows nothing of the checkout."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from tests.support.paths import ROOT

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: Final = [one.rstrip("*") for one in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]


def build_wheel(folder: Path) -> Path:
    """A wheel, built from a copy without what git ignores: no leftover of a build decides what is in it."""
    source = folder / "source"
    for name in [*PACKAGES, "pyproject.toml", "README.md", *PROJECT["project"]["license-files"]]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--wheel-dir", str(folder), str(source),
        ],
        check=True, timeout=120,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Make an environment in `folder` with the wheel and the locked libraries of this one; its `bin/follower`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    # libraries but not the checkout: its editable install is found by a .pth file, which a path in another does not run
    libraries = next(one for one in site.getsitepackages() if Path(one).is_dir())
    (packages / "libraries.pth").write_text(libraries + "\n")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python"),
            "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel),
        ],
        check=True, timeout=120,
    )  # fmt: skip
    return folder / "bin" / "follower"
