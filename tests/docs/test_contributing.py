"""docs/contributing.md is right: its files exist, and its recipes work as they are written.

A recipe is applied to a copy of the tree. Then its commands run there, and lint and types; the change touches the files
that the recipe names and no others.
"""

from __future__ import annotations

import filecmp
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.recipes import Piece, read_recipes
from tests.support.paths import ROOT

RECIPES: Final = read_recipes((ROOT / "docs" / "contributing.md").read_text())
#: not part of the tree, or large and not changed by a recipe
_LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "node_modules", "recorded", "build", "data", "*.zst"
)
_BIN: Final = Path(sys.executable).parent


def test_the_page_has_the_recipes() -> None:
    titles = ["A method", "A setting", "A metric", "A store", "An index", "A balancer", "A subcommand"]
    assert [title for title in titles if title not in RECIPES] == []
    for title in titles[:3]:
        assert RECIPES[title].pieces and RECIPES[title].commands, title


@pytest.mark.parametrize("title", RECIPES)
def test_every_named_file_exists(title: str) -> None:
    """A name with NAME in it is for a new file: its nearest folder without NAME exists."""
    for file in RECIPES[title].files:
        path = ROOT / file
        while "NAME" in str(path.relative_to(ROOT)):
            path = path.parent
        assert path.exists(), file


def _copy(target: Path) -> Path:
    """The tree without what is no part of it; recordings and compressed files are links."""
    shutil.copytree(ROOT, target, ignore=_LEFT_OUT)
    recorded = ROOT / "tests" / "recorded"
    (target / "tests" / "recorded").symlink_to(recorded)
    for file in ROOT.glob("[!.]*/**/*.zst"):
        if not file.is_relative_to(recorded):
            (target / file.relative_to(ROOT)).symlink_to(file)
    return target


def _run(copy: Path, *words: str) -> None:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def _run_as_written(copy: Path, command: str) -> None:
    """A command of the page, with this interpreter's environment in the place of `.venv`."""
    words = shlex.split(command)
    if words[0] == "make":
        # the environment is this one: it must not be made again
        _run(copy, "make", f"VENV={_BIN.parent}", "-o", f"{_BIN.parent}/.ready", *words[1:])
    else:
        _run(copy, *(word.replace(".venv/bin/", f"{_BIN}/") for word in words))


def _changed(copy: Path) -> set[str]:
    """The files of the copy that differ from the tree, or are new."""
    changed = set()
    for folder, folders, files in os.walk(copy):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in files:
            path = Path(folder, name)
            relative = path.relative_to(copy)
            if name.startswith(".") or path.is_symlink():
                continue
            if not (ROOT / relative).exists() or not filecmp.cmp(path, ROOT / relative, shallow=False):
                changed.add(str(relative))
    return changed


@pytest.mark.parametrize(
    "title", ["A method", *(pytest.param(one, marks=pytest.mark.long) for one in ("A setting", "A metric"))]
)
def test_a_recipe_works_as_it_is_written(title: str, tmp_path: Path) -> None:
    recipe = RECIPES[title]
    copy = _copy(tmp_path / "tree")
    for piece in recipe.pieces:
        piece.apply(copy)
    for command in recipe.commands:
        _run_as_written(copy, command)
    _run(copy, f"{_BIN}/ruff", "check", "--no-cache", ".")
    _run(copy, f"{_BIN}/mypy", "--cache-dir", str(tmp_path / "mypy"))
    unnamed = {file for file in _changed(copy) if not file.startswith(recipe.files)}
    assert not unnamed, f"the recipe changes files that it does not name: {sorted(unnamed)}"
    untouched = {file for file in recipe.files if not any(one.startswith(file) for one in _changed(copy))}
    assert not untouched, f"the recipe names files that it does not change: {sorted(untouched)}"


def test_a_line_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match="no line that starts with 'b = 2'"):
        Piece("file.py", "after", "b = 2", "c = 3\n").apply(tmp_path)
