"""Every setting that a page names exists: as a variable, in a settings file, in backticks with a value."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from follower.settings import load_settings
from follower.settings_table import SETTINGS
from tests.docs.pages import read_blocks
from tests.docs.test_links import PAGES

NAMES: Final = {setting.name for setting in SETTINGS}
#: variables that are no settings: the file of settings itself
VARIABLES: Final = {name for one in SETTINGS for name in (one.env, *one.aliases)} | {"FOLLOWER_CONFIG"}
_VARIABLE: Final = re.compile(r"\b((?:FOLLOWER|FULLNODE)_[A-Z_]*[A-Z])\b")
#: `name = value` in backticks is a setting, as pages write it; those of other programs have capitals or dots
_IN_TEXT: Final = re.compile(r"`([a-z][a-z_]+) = [^`]+`")
#: adds a setting to show how
_RECIPES: Final = "contributing.md"
#: a decision names columns and variables too, as they were
_CHECKED: Final = [page for page in PAGES if page.name != _RECIPES and page.parent.name != "adr"]
#: of `follower compare`'s own file
_OTHERS: Final = {"report"}


def unknown_settings(page: Path) -> list[str]:
    """What a page calls a setting and is none."""
    text = page.read_text()
    found = [name for name in _VARIABLE.findall(text) if name not in VARIABLES]
    found += [name for name in _IN_TEXT.findall(text) if name not in NAMES | _OTHERS]
    return found


@pytest.mark.parametrize("page", _CHECKED, ids=lambda page: page.name)
def test_every_named_setting_exists(page: Path) -> None:
    assert unknown_settings(page) == []


def test_the_settings_files_of_the_pages_are_read(tmp_path: Path) -> None:
    """Names and values."""
    files = [
        block for page in PAGES for block in read_blocks(page) if re.match(r"/etc/lotus-follower/.*\.toml", block.file)
    ]
    assert len(files) >= 2
    for block in files:
        file = tmp_path / "follower.toml"
        file.write_text(block.text)
        settings = load_settings(file, {}, {})
        assert all(settings.source(name) != "default" for name in tomllib.loads(block.text)), block.place


def test_an_unknown_setting_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Set `worker = 4`, or FOLLOWER_WORKER, or `workers = 4`, or FOLLOWER_WORKERS.\n")
    assert unknown_settings(page) == ["FOLLOWER_WORKER", "worker"]
