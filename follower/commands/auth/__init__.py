"""`follower auth SUBCOMMAND`: making tokens and API keys, one file a subcommand. Nothing is stored here."""

from typing import Final

from follower.commands.auth import create_key, create_token
from follower.commands.command import Command

COMMANDS: Final[tuple[Command, ...]] = (create_token.COMMAND, create_key.COMMAND)
