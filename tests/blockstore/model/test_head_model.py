"""A randomised model of publishing, leaders that die, followers, hanging reads, lost time, clock offsets and restored
logs.

With every rule kept no client sees the head go back; for each rule a variant that drops it, which must be caught.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from blockstore.cassandra.bounded_staleness import HeadWindow
from blockstore.cassandra.head import Tail
from blockstore.store import HeadEntry, TipsetRef
from blockstore.store_clock import Offset, StoreClock

DELTA, EPSILON, END = 100, 10, 1500
#: how long a read may hang
SLOWEST = 300
#: a stamp that is later than this after the prepared entry's own time, and delta, is not written
STAMP_WITHIN = 120
NEVER = END * 100


@dataclass(frozen=True)
class Publication:
    """When the steps of one entry took effect in the store (true time), and the stamp (leader's clock).

    `gone`: when the entry vanished, because the log was restored from a backup without it. `latest`: when it becomes
    visible without a stamp.
    """

    entry: HeadEntry
    prepared: int
    stamped: int
    gone: int = NEVER
    latest: int = NEVER


class NoHorizon(HeadWindow):
    """Serves what it has, however old its last read is."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        super().observe(began, ended, tail)
        self.horizon_ms = END * 10
        return False


class HorizonFromTheEnd(HeadWindow):
    """Counts from when the answer came, not from when the read began."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        return super().observe(ended, ended, tail)


class TrustsUnstamped(HeadWindow):
    """Takes a read that shows a prepared entry for a proof."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        return super().observe(began, ended, replace(tail, prepared=False))


class NoPause(HeadWindow):
    """Changes over at visible_at by its own clock."""

    def head(self, now: int, wall: int) -> HeadEntry | None:
        if self.horizon_ms is None or now >= self.horizon_ms:
            return None
        due = [entry for entry in self.entries.values() if entry.visible_at <= wall]
        return max(due, key=lambda entry: entry.seq, default=None)


class ServesUnstampedAtOnce(HeadWindow):
    """Serves an entry without a stamp when its moment has passed, however short it has been known."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        went_back = super().observe(began, ended, tail)
        if self._unstamped is not None:
            self._unstamped = self._unstamped[0], ended - self.delta_ms
        return went_back


class ServesUnstampedByItsOwnClock(HeadWindow):
    """Serves an entry without a stamp when it was known for delta, whatever its moment."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        if tail.unstamped is not None:
            tail = replace(tail, unstamped=replace(tail.unstamped, visible_at=0))
        return super().observe(began, ended, tail)


def publish(rng: random.Random, *, settles: bool, delta: int) -> list[Publication]:
    """A history: each entry by a leader with a clock of its own, its steps delayed at random."""
    history: list[Publication] = []
    now, previous = 0, 0
    for seq in range(1, 9):
        clock = rng.randint(0, EPSILON)
        asked = now + rng.randint(1, 60)
        prepared = asked + rng.choice([1, 1, 30, 2 * DELTA])
        # settled: acknowledged, or found by a SERIAL read after a time-out
        taken = prepared + rng.choice([0, 1, 50]) if settles else asked
        visible_at = max(taken + clock + delta, previous + 2 * EPSILON)
        stamped = max(taken, prepared) + rng.choice([1, 1, 40, 2 * DELTA])
        ref = TipsetRef(seq, b"")
        history.append(Publication(HeadEntry(seq, 1, (), (ref,), ref, None, visible_at), prepared, stamped))
        now, previous = stamped, visible_at
    return history


def publish_by_leaders_that_die(
    rng: random.Random, *, stamps_late: bool = False, goes_on: bool = False
) -> list[Publication]:
    """A history in which leaders die between the steps: the next one, some time later, stamps what is left or waits.

    `stamps_late`: stamps are written however late they are. `goes_on`: the next leader does not wait.
    """
    history: list[Publication] = []
    now, previous = 0, 0
    for seq in range(1, 7):
        clock = rng.randint(0, EPSILON)
        asked = now + rng.randint(1, 60)
        prepared = asked + rng.choice([1, 1, 30, 2 * DELTA])
        latest = asked + clock + DELTA + STAMP_WITHIN
        settled = prepared + rng.choice([0, 1, 50])
        if rng.random() < 0.4:
            # it died; the next leader's clock is another
            settled += rng.choice([20, DELTA, 3 * DELTA])
            clock = rng.randint(0, EPSILON)
        visible_at = max(settled + clock + DELTA, previous + 2 * EPSILON)
        if visible_at <= latest or stamps_late:
            now = stamped = settled + rng.choice([1, 1, 40, 2 * DELTA])
        else:
            stamped, visible_at = NEVER, latest
            now = settled if goes_on else max(latest - clock, settled + DELTA) + 2 * EPSILON
        ref = TipsetRef(seq, b"")
        entry = HeadEntry(seq, 1, (), (ref,), ref, None, visible_at)
        history.append(Publication(entry, prepared, stamped, latest=latest))
        previous = visible_at
    return history


def read(history: list[Publication], at: int) -> Tail:
    """What the log shows at this moment."""
    there = [one for one in history if one.prepared <= at < one.gone]
    newest = there[-1] if there else None
    stamped = tuple(one.entry for one in there if one.stamped <= at or one is not newest)
    if newest is None or newest.stamped <= at:
        return Tail(stamped, False)
    return Tail(stamped, True, None, replace(newest.entry, visible_at=newest.latest))


def restored(rng: random.Random, history: list[Publication]) -> tuple[list[Publication], int]:
    """The same history, cut by a backup that is restored in its midst and goes on from there; and when that was."""
    kept = rng.randint(1, 4)
    moment = history[rng.randint(kept, 6)].stamped + rng.randint(0, 30)
    before = [replace(one, gone=moment) if one.entry.seq > kept else one for one in history if one.stamped <= moment]
    after: list[Publication] = []
    previous = history[kept - 1].entry.visible_at
    now = moment
    for seq in range(kept + 1, kept + rng.randint(1, 8)):
        now += rng.randint(5, 80)
        visible_at = max(now + DELTA, previous + 2 * EPSILON)
        ref = TipsetRef(seq, b"another")
        after.append(Publication(HeadEntry(seq, 2, (), (ref,), ref, None, visible_at), now, now + 1))
        previous = visible_at
    return before + after, moment


def answers(
    rng: random.Random, history: list[Publication], window: HeadWindow, clock: int | None = None
) -> list[tuple[int, HeadEntry]]:
    """(true time, head served) of one follower at random moments; reads hang at times and overlap."""
    clock = rng.randint(0, EPSILON) if clock is None else clock
    reads = []
    for began in range(rng.randint(0, DELTA // 4), END, DELTA // 4):
        if rng.random() < 0.2:
            continue  # suspended just then
        ended = began + rng.choice([1, 2, 10, 80, SLOWEST])
        reads.append((ended, began, rng.randint(began, ended)))
    reads.sort()
    served: list[tuple[int, HeadEntry]] = []
    next_read = 0
    for moment in sorted(rng.sample(range(END), 300)):
        while next_read < len(reads) and reads[next_read][0] <= moment:
            ended, began, seen = reads[next_read]
            window.observe(began, ended, read(history, seen))
            next_read += 1
        head = window.head(moment, moment + clock)
        if head is not None:
            served.append((moment, head))
    return served


def goes_back(
    seed: int, make: Callable[[int, int], HeadWindow] = HeadWindow, *, settles: bool = True, delta: int = DELTA
) -> tuple[bool, int]:
    """Whether a client that asks three followers in turn sees the head go back, and the answers it got."""
    rng = random.Random(seed)
    return asked_in_turn(rng, publish(rng, settles=settles, delta=delta), make)


def goes_back_when_leaders_die(
    seed: int, make: Callable[[int, int], HeadWindow] = HeadWindow, *, stamps_late: bool = False, goes_on: bool = False
) -> tuple[bool, int]:
    """The same over leaders that die."""
    rng = random.Random(seed)
    return asked_in_turn(rng, publish_by_leaders_that_die(rng, stamps_late=stamps_late, goes_on=goes_on), make)


def asked_in_turn(
    rng: random.Random, history: list[Publication], make: Callable[[int, int], HeadWindow]
) -> tuple[bool, int]:
    """Whether a client that asks three followers in turn sees the head go back, and the answers it got."""
    every = [answer for _ in range(3) for answer in answers(rng, history, make(DELTA, EPSILON))]
    return steps_back(every), len(every)


def steps_back(every: list[tuple[int, HeadEntry]]) -> bool:
    """Whether a client that got these answers saw the head go back."""
    newest_before, newest = 0, 0
    moment_before = -1
    for moment, head in sorted((moment, entry.seq) for moment, entry in every):
        if moment > moment_before:
            newest_before, moment_before = newest, moment
        if head < newest_before:
            return True
        newest = max(newest, head)
    return False


def measured(rng: random.Random, ahead: int) -> StoreClock:
    """The clock of a follower that is `ahead` of the store's, measured twice over a slow network."""
    now = [0]

    async def clock_ms() -> int:
        now[0] += rng.choice([0, 1, 10, 60])
        store = now[0]
        now[0] += rng.choice([0, 1, 10, 60])
        return store

    clock = StoreClock(clock_ms, EPSILON, lambda: now[0] + ahead, lambda: now[0])
    for _ in range(2):
        asyncio.run(clock.measure())
    return clock


def not_certainly_off(offset: Offset) -> bool:
    """The rule that trusts what is not known."""
    return not offset.is_beyond(EPSILON)


def certainly_right(offset: Offset) -> bool:
    """The rule that holds."""
    return offset.is_within(EPSILON)


def goes_back_by_clocks(seed: int, trusts: Callable[[Offset], bool]) -> tuple[bool, int]:
    """As `goes_back`, with clocks that may be far off; a follower serves when it trusts its measurement."""
    rng = random.Random(seed)
    history = publish(rng, settles=True, delta=DELTA)
    every: list[tuple[int, HeadEntry]] = []
    for _ in range(4):
        ahead = rng.randint(-5 * EPSILON, 5 * EPSILON) if rng.random() < 0.5 else rng.randint(-EPSILON + 2, EPSILON - 2)
        offset = measured(rng, ahead).offset
        assert offset is not None
        assert offset.low <= -ahead <= offset.high
        if trusts(offset):
            every += answers(rng, history, HeadWindow(DELTA, EPSILON), ahead)
    return steps_back(every), len(every)


class TrustsALogThatGoesBack(HeadWindow):
    """Extends its horizon by whatever the log shows."""

    def observe(self, began: int, ended: int, tail: Tail) -> bool:
        self.entries |= {entry.seq: entry for entry in tail.entries}
        if not tail.prepared:
            self.horizon_ms = max(self.horizon_ms or 0, began + DELTA - EPSILON)
        return False


class NeverStartsOver(HeadWindow):
    """Goes on with what it knew."""

    def _distrust(self, began: int, ended: int) -> bool:
        return False


def after_a_restore(seed: int, make: Callable[[int, int], HeadWindow] = HeadWindow) -> tuple[int, int, int]:
    """Of three followers over a log that is restored: answers with a head that is no more, answers with a head of the
    restored log, resets. What was read before the restore may be served until the horizon of the slowest read."""
    rng = random.Random(seed)
    history, moment = restored(rng, publish(rng, settles=True, delta=DELTA))
    gone = {one.entry for one in history if one.gone == moment}
    wrong = right = resets = 0
    for _ in range(3):
        window = make(DELTA, EPSILON)
        for at, entry in answers(rng, history, window):
            if at > moment + SLOWEST + DELTA:
                wrong += entry in gone
                right += entry not in gone
        resets += window.resets
    return wrong, right, resets


def test_with_every_rule_no_client_sees_the_head_go_back() -> None:
    runs = [goes_back(seed) for seed in range(300)]
    assert [seed for seed, (back, _) in enumerate(runs) if back] == []
    # and it does serve: waiting for ever would be safe too
    assert sum(count for _, count in runs) / len(runs) > 200


@pytest.mark.parametrize("make", [NoHorizon, HorizonFromTheEnd, TrustsUnstamped, NoPause])
def test_a_follower_that_drops_a_rule_is_caught(make: Callable[[int, int], HeadWindow]) -> None:
    assert any(goes_back(seed, make)[0] for seed in range(1000))


def test_when_leaders_die_between_the_steps_no_client_sees_the_head_go_back() -> None:
    runs = [goes_back_when_leaders_die(seed) for seed in range(1000)]
    assert [seed for seed, (back, _) in enumerate(runs) if back] == []
    assert sum(count for _, count in runs) / len(runs) > 200


def test_an_entry_whose_leader_died_is_served_though_no_leader_comes() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        ref = TipsetRef(1, b"")
        left = HeadEntry(1, 1, (), (ref,), ref, None, DELTA + STAMP_WITHIN)
        history = [Publication(left, 1, NEVER, latest=left.visible_at)]
        served = answers(rng, history, HeadWindow(DELTA, EPSILON))
        assert served
        assert {entry for _, entry in served} == {left}
        assert served[0][0] > left.visible_at
        # and it stays the head
        assert served[-1][0] > END - 2 * SLOWEST


@pytest.mark.parametrize("make", [ServesUnstampedAtOnce, ServesUnstampedByItsOwnClock, TrustsUnstamped])
def test_a_follower_that_drops_a_rule_for_dead_leaders_is_caught(make: Callable[[int, int], HeadWindow]) -> None:
    assert any(goes_back_when_leaders_die(seed, make)[0] for seed in range(3000))


@pytest.mark.parametrize("rule", ["stamps_late", "goes_on"])
def test_a_leader_that_drops_a_rule_for_dead_leaders_is_caught(rule: str) -> None:
    assert any(goes_back_when_leaders_die(seed, **{rule: True})[0] for seed in range(3000))


@pytest.mark.parametrize(("settles", "delta"), [(False, DELTA), (True, 0)])
def test_a_leader_that_drops_a_rule_is_caught(settles: bool, delta: int) -> None:
    assert any(goes_back(seed, settles=settles, delta=delta)[0] for seed in range(1000))


def test_clocks_that_may_be_off_serve_nothing_and_so_no_head_goes_back() -> None:
    runs = [goes_back_by_clocks(seed, certainly_right) for seed in range(300)]
    assert [seed for seed, (back, _) in enumerate(runs) if back] == []
    # clocks that are right and measured well do serve
    assert sum(count for _, count in runs) / len(runs) > 50


def test_a_follower_that_trusts_a_clock_that_may_be_off_is_caught() -> None:
    assert any(goes_back_by_clocks(seed, not_certainly_off)[0] for seed in range(1000))


def test_after_a_restore_no_head_is_served_that_is_no_more_and_those_that_are_soon_are() -> None:
    runs = [after_a_restore(seed) for seed in range(300)]
    assert [seed for seed, (wrong, _, _) in enumerate(runs) if wrong] == []
    assert sum(resets for _, _, resets in runs) > 300
    assert sum(right for _, right, _ in runs) / len(runs) > 100


def test_a_follower_that_ignores_a_restore_is_caught() -> None:
    assert any(after_a_restore(seed, TrustsALogThatGoesBack)[0] for seed in range(300))
    served = [after_a_restore(seed)[1] for seed in range(100)]
    stuck = [after_a_restore(seed, NeverStartsOver)[1] for seed in range(100)]
    assert sum(stuck) < sum(served) / 2


def test_settings_that_cannot_hold_are_refused() -> None:
    for delta, epsilon in ((10, 5), (10, 0), (0, 0)):
        with pytest.raises(ValueError, match="delta"):
            HeadWindow(delta, epsilon)


def test_nothing_is_served_before_the_first_read_or_of_an_empty_log() -> None:
    window = HeadWindow(DELTA, EPSILON)
    assert window.head(0, 0) is None
    window.observe(0, 1, Tail((), False))
    assert window.head(1, 1) is None
