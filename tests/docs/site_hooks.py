"""What MkDocs does not do by itself for our pages: it calls these functions (`hooks` in mkdocs.yml).

Pages link to files of the repository outside `docs/`. Some of those are pages of the site too, in the folder
`repository/`; other files are named, not linked. The pages themselves stay as GitHub shows them.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files, InclusionLevel

log = logging.getLogger(f"mkdocs.hooks.{__name__}")

ROOT: Final = Path(__file__).resolve().parents[2]
#: pages outside docs/ that the site has
_PAGES: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/README.md",
    "tests/recorded/README.md",
)
_FOLDER: Final = "repository"
_LINK: Final = re.compile(r"(?<!\!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside `docs/`."""
    for name in _PAGES:
        # decisions are reached by their table, not by the navigation
        files.append(File.generated(config, f"{_FOLDER}/{name}", abs_src_path=str(ROOT / name)))
    for file in files:
        if file.src_uri.startswith("adr/") and file.src_uri != "adr/README.md":
            file.inclusion = InclusionLevel.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links between the repository's files lead to where the site has them."""
    here = page.file.src_uri
    source = here.removeprefix(f"{_FOLDER}/") if here.startswith(f"{_FOLDER}/") else f"docs/{here}"

    def translated(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", source, target)
            return found[0]
        uri = path.removeprefix("docs/") if path.startswith("docs/") else f"{_FOLDER}/{path}"
        if files.get_file_from_path(uri) is None:
            return f"{text} (`{path}`)" if path != text else f"`{path}`"
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"

    return "".join(
        part if part.startswith("```") else _LINK.sub(translated, part)
        for part in re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    )
