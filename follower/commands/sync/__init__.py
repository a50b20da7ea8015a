"""`follower sync`: a new store filled from many sources at once, then kept by the bridge."""

from __future__ import annotations

from follower.commands.sync.command import COMMAND

__all__ = ["COMMAND"]
