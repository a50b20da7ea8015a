"""Every method has a description."""

from __future__ import annotations

from tests.support.paths import ROOT


def test_every_method_is_described() -> None:
    page = (ROOT / "docs" / "methods.md").read_text().partition("## The methods of lotus-gateway")[0]
    rows = [row for row in page.splitlines() if row.startswith("| `Filecoin.")]
    assert len(rows) > 120
    for row in rows:
        assert len(row.rstrip(" |").rpartition("| ")[2]) > 8, row
