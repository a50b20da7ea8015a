"""The bounded-staleness rule: how long a head may be served after a read of the head log.

Times are milliseconds. `began` and `now` come from a clock that only goes forward and counts suspended time
(CLOCK_BOOTTIME); `wall` from the clock that `visible_at` is in, within epsilon of every other machine's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from blockstore.cassandra.head import Tail
from blockstore.store import HeadEntry

#: reads in a row, each begun after the one before had ended, until a log that went back is believed
_CONFIRMATIONS: Final = 3


class Unchanged(NamedTuple):
    """Bounds, none of them included: of `now`, and of `wall` (`wall_until` None: none)."""

    until: int
    wall_from: int
    wall_until: int | None


class HeadWindow:
    """What one follower knows of the log. Feed it each read; ask it which head may be served.

    It keeps the newest entry that may be served and those still to come, as many as it is fed. A prepared entry that
    nobody stamps is served when its own moment has passed and it has been known here for delta: by then no follower
    that read the log before it was prepared serves anything. A log that goes back (it
    was restored from a backup) contradicts what was read before: such a read extends no horizon, and when more reads
    say the same, everything known is forgotten.
    """

    def __init__(self, delta_ms: int, epsilon_ms: int) -> None:
        if not delta_ms > 2 * epsilon_ms > 0:
            raise ValueError("delta must be more than twice epsilon, and epsilon more than 0")
        self.delta_ms = delta_ms
        self.epsilon_ms = epsilon_ms
        #: until when (the clock of `observe`) the newest visible entry is certainly the head
        self.horizon_ms: int | None = None
        self.entries: dict[int, HeadEntry] = {}
        #: a prepared entry, and when the first read that showed it had ended
        self._unstamped: tuple[HeadEntry, int] | None = None
        #: the number of the newest entry that is served though it has no stamp
        self._served_unstamped = 0
        #: how often the log went back
        self.resets = 0
        #: the newest entry that a read showed, and when the first read that showed it had ended
        self._newest = (0, 0)
        #: reads in a row that contradict what is known, and when the last of them had ended
        self._contradictions = 0
        self._contradicted_at = 0
        #: reads that began before this moment tell of a log that is no more
        self._valid_from = 0

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        """Learn from a read that began and ended then and showed `tail`. Whether the log went back, for certain now.

        An entry that the read lacks was prepared after `began`, and stamped after that: invisible before
        began + delta by any clock. One that it shows prepared may have been stamped long ago: it proves nothing.
        """
        if began < self._valid_from:
            return False
        prepared = tail.prepared
        if tail.unstamped is not None and tail.unstamped.seq == self._served_unstamped:
            # it is no less the newest one than a stamped entry would be
            tail, prepared = replace(tail, entries=(*tail.entries, tail.unstamped), unstamped=None), False
        if self._contradicts(began, tail):
            return self._distrust(began, ended)
        seq = tail.entries[-1].seq if tail.entries else 0
        known, known_at = self._newest
        if seq < known:
            # older than one that ended first: whether the log went back or the read was slow, it says nothing new
            return False
        self._contradictions = 0
        self._newest = (seq, ended if seq > known else min(ended, known_at))
        for entry in tail.entries:
            self.entries[entry.seq] = entry
        if tail.unstamped is not None and (self._unstamped is None or self._unstamped[0] != tail.unstamped):
            self._unstamped = tail.unstamped, ended
        if not prepared:
            until = began + self.delta_ms - self.epsilon_ms
            self.horizon_ms = until if self.horizon_ms is None else max(self.horizon_ms, until)
        return False

    def _contradicts(self, began: int, tail: Tail) -> bool:
        """Whether the log once held what it does not hold now. Reads that overlapped prove nothing."""
        if any(self._differs(entry) for entry in tail.entries):
            return True
        newest = tail.entries[-1].seq if tail.entries else 0
        return newest < self._newest[0] and began > self._newest[1]

    def _differs(self, entry: HeadEntry) -> bool:
        known = self.entries.get(entry.seq, entry)
        if entry.seq == self._served_unstamped:
            # a stamp that was under way may show later
            known = replace(known, visible_at=entry.visible_at)
        return known != entry

    def _distrust(self, began: int, ended: int) -> bool:
        if self._contradictions and began <= self._contradicted_at:
            return False
        self._contradictions += 1
        self._contradicted_at = ended
        if self._contradictions < _CONFIRMATIONS:
            return False
        self.resets += 1
        self.entries.clear()
        self._unstamped, self._served_unstamped = None, 0
        self.horizon_ms = None
        self._newest = (0, 0)
        self._contradictions = 0
        self._valid_from = ended
        return True

    def head(self, now: int, wall: int) -> HeadEntry | None:
        """The head to serve at this moment, or None: wait for a read, or for an entry's moment to pass."""
        self._take_unstamped(now, wall)
        if self.horizon_ms is None or now >= self.horizon_ms:
            return None
        best: HeadEntry | None = None
        for entry in self.entries.values():
            if abs(wall - entry.visible_at) <= self.epsilon_ms:
                return None
            if entry.visible_at < wall and (best is None or entry.seq > best.seq):
                best = entry
        if best is not None:
            # older entries were visible 2 epsilon before: no clock within epsilon serves them any more
            for seq in [seq for seq in self.entries if seq < best.seq]:
                del self.entries[seq]
        return best

    def unchanged_while(self, served: HeadEntry) -> Unchanged | None:
        """How long `head`, which has just told `served`, goes on to tell it; None where that is not known.

        Only a log that goes back ends it before: what is news to a read is not visible before the horizon, and an entry
        that is only prepared is not served before it either.
        """
        if self.horizon_ms is None:
            return None
        coming = [entry.visible_at for entry in self.entries.values() if entry is not served]
        wall_until = min(coming) - self.epsilon_ms if coming else None
        return Unchanged(self.horizon_ms, served.visible_at + self.epsilon_ms, wall_until)

    def _take_unstamped(self, now: int, wall: int) -> None:
        """Count a prepared entry as a visible one when it is. The horizon waits for a read that shows it the newest."""
        if self._unstamped is None:
            return
        entry, since = self._unstamped
        if entry.seq in self.entries or entry.seq < self._newest[0]:
            self._unstamped = None
        elif now >= since + self.delta_ms and wall > entry.visible_at + self.epsilon_ms:
            self.entries[entry.seq] = entry
            self._newest = entry.seq, since
            self._served_unstamped = entry.seq
            self._unstamped = None
