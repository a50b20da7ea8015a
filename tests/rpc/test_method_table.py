"""The docs say what the registry says."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT


def test_the_docs_have_the_registrys_table() -> None:
    # a process of its own: tests declare methods too
    made = subprocess.run(
        [sys.executable, "-m", "rpc.method_table"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (ROOT / "docs" / "methods.md").read_text() == made.stdout, (
        "run: python -m rpc.method_table > docs/methods.md"
    )


def test_every_method_is_described() -> None:
    rows = [row for row in (ROOT / "docs" / "methods.md").read_text().splitlines() if row.startswith("| `Filecoin.")]
    assert len(rows) > 120
    for row in rows:
        assert len(row.rstrip(" |").rpartition("| ")[2]) > 8, row
