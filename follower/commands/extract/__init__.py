"""`follower extract`: tables for analysts. The work itself is in `leader_bridge.tables`."""

from follower.commands.extract.extract import COMMAND

__all__ = ["COMMAND"]
