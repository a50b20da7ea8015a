"""What a setting is, and the groups of subcommands that share settings. The settings: `follower.settings_table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

#: environment variables are the setting's name in capitals behind this
ENV_PREFIX: Final = "FOLLOWER_"

#: groups of subcommands; `follower up` runs a bridge and its followers
SERVE: Final = ("up", "serve")
BRIDGE: Final = ("up", "bridge", "sync")
#: those that keep a store at its size
KEEP: Final = (*BRIDGE, "import")
#: those that make what the past lacks
BACKFILL: Final = (*BRIDGE, "backfill")
#: those that put work into the pool of workers, or do it
POOL: Final = ("worker", "index")
#: those that run messages, or start the process that does
EXECUTE: Final = (*SERVE, "bridge", "sync", "backfill", "execute", *POOL)
#: those that read objects which archives may hold
ARCHIVED: Final = (*EXECUTE, "store index", "store check")
BOTH: Final = ("up", "bridge", "sync", "serve", "execute")
#: those that read a shared store's head or write it
SHARED_STORE: Final = (
    *BOTH, "doctor", "hooks", "import", "backfill", "resume", "schema", "loadbalancer", "store", "extract", *POOL,
    "disperse",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `commands`: the subcommands that take it as a flag and may read it; "store" names all of
    `follower store`, "store check" one of them.

    `aliases` are further environment variables. `hide` makes a text without secrets of a value that may hold one.
    """

    name: str
    parse: Callable[[Any], Any]
    default: Any
    commands: tuple[str, ...]
    doc: str
    aliases: tuple[str, ...] = ()
    hide: Callable[[Any], str] | None = None

    @property
    def env(self) -> str:
        """Its environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + self.name.replace("_", "-")

    def is_used_by(self, command: str) -> bool:
        """Whether a subcommand takes it as a flag and may read it; `follower config` takes all."""
        return command == "config" or command in self.commands or command.partition(" ")[0] in self.commands

    def shown(self, value: Any) -> str:
        """A value as a text for people and logs, without secrets."""
        return str(value) if self.hide is None else self.hide(value)
