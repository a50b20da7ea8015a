"""The generated tables of the docs equal the code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.tables import replace_part
from tests.support.paths import ROOT


def test_generated_tables_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "tests.docs.tables", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_part_is_replaced_and_the_rest_stays() -> None:
    page = "a\n<!-- x: written by `make docs-tables` -->\nold\n<!-- end of x -->\nb\n"
    assert replace_part(page, "x", "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="lacks the mark"):
        replace_part("a\n", "x", "new\n")
