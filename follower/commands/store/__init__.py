"""`follower store SUBCOMMAND`: looking after a store, one file a subcommand.

The work itself is in `leader_bridge.upkeep`. A subcommand's settings are those that name "store" in the settings table,
and those that name it ("store check"). Beside them: `opening` (opens the store that the settings name).
"""

from typing import Final

from follower.commands.command import Command
from follower.commands.store import backup, check, copy, export, index, migrate, stats

COMMANDS: Final[tuple[Command, ...]] = (
    stats.COMMAND,
    check.COMMAND,
    copy.COMMAND,
    backup.COMMAND,
    export.COMMAND,
    index.COMMAND,
    migrate.COMMAND,
)
