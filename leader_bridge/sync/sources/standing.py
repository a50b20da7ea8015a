"""The record of a source: what it gave, how it failed, and when it may be asked again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from leader_bridge.clock import monotonic
from leader_bridge.sync.sources.cooldowns import Pauses
from leader_bridge.sync.sources.source import SyncSource
from rpc.server.ranges.window import Window

#: our clock and the source's are not the same: a second is counted as a little more
WINDOW_SECONDS: Final = 1.005


@dataclass(slots=True)
class Standing:
    """A source with its record."""

    source: SyncSource
    window: Window
    pauses: Pauses = field(default_factory=Pauses)
    #: in a row, by its own fault
    failures: int = 0
    #: until then it does not want to be asked for anything
    told_to_wait_until: float = 0.0
    errors: int = 0
    requests: int = 0
    objects: int = 0
    received_bytes: int = 0
    bad: int = 0
    limited: int = 0
    refusal: str = ""


def full_window(limit: int) -> Window:
    """A new limit that allows nothing for a second: what was sent before is not known to it."""
    window = Window(limit, WINDOW_SECONDS)
    for _ in range(limit):
        window.start(monotonic())
    return window
