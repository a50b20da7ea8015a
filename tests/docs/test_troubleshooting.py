"""Every warning and error of the logs has a row in docs/troubleshooting.md, and no row is stale."""

from __future__ import annotations

import re
from typing import Final

from tests.docs.log_messages import log_messages
from tests.support.paths import ROOT

_PLACEHOLDER: Final = re.compile(r"%[-+0-9.]*[a-zA-Z]")
_ROW: Final = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def shown(text: str) -> str:
    """A log text as the page has it: … for each placeholder."""
    return _PLACEHOLDER.sub("…", text).strip()


def test_every_log_message_has_an_entry() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    entries = set(_ROW.findall(page[page.index("## Log messages") :]))
    found = {shown(text): file.relative_to(ROOT) for text, file in log_messages().items()}
    assert len(found) > 60
    missing = [f"{file}: {text}" for text, file in found.items() if text not in entries]
    assert not missing, "docs/troubleshooting.md lacks: " + "\n".join(missing)
    assert not entries - set(found), f"docs/troubleshooting.md has what nobody logs: {sorted(entries - set(found))}"
