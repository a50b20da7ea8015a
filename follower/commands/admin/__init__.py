"""`follower admin SUBCOMMAND`: what operators ask of the processes that run here, one file a subcommand.

`ask.py` finds the API by the settings, and shows the answers. What is done is done by `follower/administration/`.
"""

from typing import Final

from follower.commands.admin import cordon, drain, drop_cache, log_level, resume, status, uncordon
from follower.commands.command import Command

COMMANDS: Final[tuple[Command, ...]] = (
    status.COMMAND,
    drain.COMMAND,
    resume.COMMAND,
    cordon.COMMAND,
    uncordon.COMMAND,
    drop_cache.COMMAND,
    log_level.COMMAND,
)
