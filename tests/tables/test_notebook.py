"""The notebook for analysts runs, and shows what it showed when it was written."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.support.paths import ROOT
from tests.tables import notebook
from tests.tables.notebook import IMAGES, NOTEBOOK, PICTURES, make_tables, pictures, printed, run_notebook

pytestmark = pytest.mark.recorded


async def test_the_notebook_shows_what_it_showed(tmp_path: Path) -> None:
    await make_tables(tmp_path)
    run, kept = run_notebook(tmp_path), nbformat.read(NOTEBOOK, as_version=4)
    told = "run python -m tests.tables.notebook, and look at what has changed"
    assert printed(run) == printed(kept), told
    assert len(pictures(run)) == len(pictures(kept)) == len(PICTURES) == 3
    page = (ROOT / "docs" / "tables.md").read_text()
    for name, picture in zip(PICTURES, pictures(kept), strict=True):
        assert (IMAGES / name).read_text() == picture, told
        assert f"images/{name}" in page


def test_a_notebook_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('begun')\n1 / 0")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    monkeypatch.setattr(notebook, "NOTEBOOK", tmp_path / "broken.ipynb")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        run_notebook(tmp_path)
