"""The site of the docs is built strictly: a dead link is a failure. It asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


def test_the_site_is_built_and_complete(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(tmp_path).with_suffix("")) for page in tmp_path.rglob("*.html")}
    sources = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    assert sources - {"adr/README"} <= pages
    home = (tmp_path / "index.html").read_text()
    assert 'href="calibnet.html"' in home
    for page in tmp_path.rglob("*.html"):
        asked = re.findall(r'<(?:script|link|img)\b[^>]*(?:src|href)="?(https?://[^" >]+)', page.read_text())
        assert asked == [], f"{page.name} asks {asked}"


def test_a_dead_link_is_a_failure(tmp_path: Path) -> None:
    """A page, a heading, a file of the repository that is not there."""
    pages = tmp_path / "docs"
    pages.mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: {pages}\nhooks: [{ROOT}/tests/docs/site_hooks.py]\nnav: [index.md]\n"
        "validation: {nav: {omitted_files: ignore}}\n"
    )
    (pages / "index.md").write_text("# A page\n\n[good](#a-page)\n")
    assert build(config, tmp_path / "site").returncode == 0
    for link in ("(other.md)", "(#nowhere)", "(../no-such-file.md)"):
        (pages / "index.md").write_text(f"# A page\n\n[dead]{link}\n")
        done = build(config, tmp_path / "site")
        assert done.returncode == 1, f"{link}: {done.stderr}"
        assert "WARNING" in done.stderr
