"""`follower config`: the settings in force, or the table of all of them."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.command import Command
from follower.settings import Settings
from follower.settings_table import SETTINGS


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print every setting with its value and where that came from; no secret is printed."""
    if args.markdown:
        print(markdown_table(), end="")
        return 0
    for setting, value, source in settings.table():
        print(f"# {setting.doc}\n# default {setting.default!r}; flag {setting.flag}; environment {setting.env}")
        print(f"{setting.name} = {value}  # from {source}\n")
    return 0


def markdown_table() -> str:
    """The settings table of docs/operating.md."""
    lines = ["| setting | default | for | is |", "|---|---|---|---|"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default != "" else ""
        doc = setting.doc.replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {default} | {', '.join(setting.commands)} | {doc} |")
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--markdown`."""
    parser.add_argument("--markdown", action="store_true", help="print the table of all settings, for the manual")


COMMAND: Final = Command(
    "config",
    "Every setting, its default, and where its value came from.",
    "follower config --config follower.toml",
    run,
    add_arguments,
)
