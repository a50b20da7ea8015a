"""Every method has a description."""

from __future__ import annotations

from tests.support.paths import ROOT


def test_every_method_is_described() -> None:
    rows = [row for row in (ROOT / "docs" / "methods.md").read_text().splitlines() if row.startswith("| `Filecoin.")]
    assert len(rows) > 120
    for row in rows:
        assert len(row.rstrip(" |").rpartition("| ")[2]) > 8, row
