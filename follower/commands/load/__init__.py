"""Subcommands about load: `follower bench` measures a server.

`mix` reads the calls (`made_mix` makes them of the target's chain), `target` finds the servers, `connection` asks,
`measure` lets two servers take turns, `report` writes it down. Nothing here is imported by what serves.
"""

from typing import Final

from follower.commands.command import Command
from follower.commands.load import bench

COMMANDS: Final[tuple[Command, ...]] = (bench.COMMAND,)
