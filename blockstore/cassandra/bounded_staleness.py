"""How long a head may be served on what the last reads of the log proved: the bounded-staleness rule.

Times are milliseconds. `began` and `now` come from a clock that only goes forward and counts suspended time
(CLOCK_BOOTTIME); `wall` from the clock that `visible_at` is in, within epsilon of every other machine's.
"""

from __future__ import annotations

from blockstore.cassandra.head import Tail
from blockstore.store import HeadEntry


class HeadWindow:
    """What one follower knows of the log. Feed it each read; ask it which head may be served.

    It keeps the newest entry that may be served and those still to come, as many as it is fed.
    """

    def __init__(self, delta_ms: int, epsilon_ms: int) -> None:
        if not delta_ms > 2 * epsilon_ms > 0:
            raise ValueError("delta must be more than twice epsilon, and epsilon more than 0")
        self.delta = delta_ms
        self.epsilon = epsilon_ms
        self.horizon: int | None = None
        self.entries: dict[int, HeadEntry] = {}

    def observe(self, began: int, ended: int, tail: Tail) -> None:
        """A read that began and ended then showed `tail`.

        An entry that it lacks was prepared after `began`, and stamped after that: invisible before
        began + delta by any clock. One that it shows prepared may have been stamped long ago: it proves nothing.
        """
        for entry in tail.entries:
            self.entries[entry.seq] = entry
        if not tail.prepared:
            until = began + self.delta - self.epsilon
            self.horizon = until if self.horizon is None else max(self.horizon, until)

    def head(self, now: int, wall: int) -> HeadEntry | None:
        """The head to serve at this moment, or None: wait for a read, or for an entry's moment to pass."""
        if self.horizon is None or now >= self.horizon:
            return None
        best: HeadEntry | None = None
        for entry in self.entries.values():
            if abs(wall - entry.visible_at) <= self.epsilon:
                return None
            if entry.visible_at < wall and (best is None or entry.seq > best.seq):
                best = entry
        if best is not None:
            # an older one was visible 2 epsilon before: no clock in bounds serves it any more
            for seq in [seq for seq in self.entries if seq < best.seq]:
                del self.entries[seq]
        return best
