"""What the docs name exists: linked files and headings, make targets, subcommands and their flags, rooms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from follower.cli import GROUPS, build_parser, subcommand_parsers
from tests.support.paths import ROOT

PAGES: Final = [*sorted(ROOT.glob("*.md")), ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_TARGET: Final = re.compile(r"(?:^|[`\s])make ((?!it\b|a\b|the\b)[a-z][a-z-]*)(?=[`\s,.;:)]|$)", re.MULTILINE)
#: a command line in a page: at the start of an indented line, behind a variable, or in backticks
_COMMAND: Final = re.compile(
    r"(?:^ {4}(?:\S+=\S+ )*(?:\S*/)?|`(?:\S*/)?|\| (?:\S*/)?|=(?:\S*/)?)"
    r"follower ((?:(?:store|auth|index|admin) )?[a-z]+(?:(?<=create|n drop|in log)-[a-z]+)?)\b"
    r"([^`\n]*(?:\\\n[^`\n]*)*)",
    re.MULTILINE,
)
_FILE: Final = re.compile(
    r"`((?:benches|blockstore|chain|deploy|devnode|docs|examples|follower|leader_bridge|loadbalancer|rpc|requirements|tests)/[\w./-]*)`"
)
_ROOM: Final = re.compile(r"^\| `([a-z_0-9/]+)/` \|", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchor(heading: str) -> str:
    """A heading's name in a link, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{_name(page)} links to {link}"
        if anchor:
            anchors = {_anchor(heading) for heading in _HEADING.findall(target.read_text())}
            assert anchor in anchors, f"{_name(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # targets of Lotus' Makefile are named where its node is built
    text = re.sub(r"lotus (?:calibnet|install)$|`make (?:calibnet|all)`", "", page.read_text(), flags=re.MULTILINE)
    named = set(_TARGET.findall(_code(text)))
    assert named <= targets, f"{_name(page)} names make targets that do not exist: {sorted(named - targets)}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_name)
def test_every_named_file_exists(page: Path) -> None:
    """Files and folders of the tree in backticks; NAME in a name stands for any."""
    text = re.sub(r"^New file .*$", "", page.read_text(), flags=re.MULTILINE)
    lost = [path for path in _FILE.findall(text) if "NAME" not in path and not (ROOT / path).exists()]
    assert not lost, f"{_name(page)} names {lost}"


def _code(text: str) -> str:
    """The indented lines and the parts in backticks: where commands stand."""
    return "\n".join(re.findall(r"^ {4}.*$|`[^`\n]+`", text, re.MULTILINE))


def _subcommands() -> dict[str, set[str]]:
    """The flags of each subcommand."""
    return {
        name: {flag for action in parser._actions for flag in action.option_strings}
        for name, parser in subcommand_parsers(build_parser())
    }


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_name)
def test_every_subcommand_and_flag_exists(page: Path) -> None:
    known = _subcommands()
    for name, rest in _COMMAND.findall(page.read_text()):
        if name in GROUPS and not rest.strip():
            continue
        assert name in known, f"{_name(page)} names `follower {name}`"
        # another program may come behind a pipe
        flags = set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest.partition(" | ")[0].partition("  #")[0]))
        assert flags <= known[name], f"{_name(page)}: follower {name} has no {sorted(flags - known[name])}"


def test_commands_are_found_in_the_pages() -> None:
    """The patterns above find what they are for."""
    readme = (ROOT / "README.md").read_text()
    assert {"up", "serve", "import", "bridge", "loadbalancer"} <= {name for name, _ in _COMMAND.findall(readme)}
    assert {"run", "test", "check", "bench"} <= set(_TARGET.findall(_code(readme)))
    in_readme = re.findall(r"^\| `follower ([a-z]+(?: [a-z-]+)?)(?: [A-Z]+)*` \|", readme, re.MULTILINE)
    assert set(_subcommands()) == set(in_readme)


def test_architecture_shows_every_room() -> None:
    shown = set(_ROOM.findall((ROOT / "docs" / "architecture.md").read_text()))
    rooms = {
        str(init.parent.relative_to(ROOT))
        for top in ("blockstore", "chain", "rpc", "leader_bridge", "follower", "loadbalancer", "devnode")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert shown == rooms, f"docs/architecture.md: missing {sorted(rooms - shown)}, gone {sorted(shown - rooms)}"
