"""`follower index SUBCOMMAND` and `follower worker`: the pool of workers, one file a subcommand.

The work itself is in `leader_bridge.pool`. A subcommand's settings are those that name "index" in the settings table,
and those that name it ("index watch"). Beside them: `pool` (what they share).
"""

from typing import Final

from follower.commands.command import Command
from follower.commands.index import fill, find, status, walk, watch, worker

COMMANDS: Final[tuple[Command, ...]] = (
    worker.COMMAND,
    watch.COMMAND,
    walk.COMMAND,
    find.COMMAND,
    fill.COMMAND,
    status.COMMAND,
)
