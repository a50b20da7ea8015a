"""`follower disperse`."""

from follower.commands.disperse.disperse import COMMAND

__all__ = ["COMMAND"]
