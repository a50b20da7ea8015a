"""Subcommands about load: `follower bench` measures a server, `follower plan` sizes machines.

`mix` reads the calls (`made_mix` makes them of the target's chain), `target` finds the servers, `connection` asks,
`measure` lets two servers take turns, `report` writes it down. `capacity` is the model that `plan` prints; its figures
are in `capacity.json`. Nothing here is imported by what serves.
"""

from typing import Final

from follower.commands.command import Command
from follower.commands.load import bench, plan

COMMANDS: Final[tuple[Command, ...]] = (bench.COMMAND, plan.COMMAND)
