"""A randomised model of publishing, followers, hanging reads, lost time, clock offsets and restored logs.

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


@dataclass(frozen=True)
class Publication:
    """When the steps of one entry took effect in the store (true time), and the stamp (leader's clock).

    `gone`: when the entry vanished, because the log was restored from a backup without it.
    """

    entry: HeadEntry
    prepared: int
    stamped: int
    gone: int = END * 100


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
        return super().observe(began, ended, Tail(tail.entries, False))


class NoPause(HeadWindow):
    """Changes over at visible_at by its own clock."""

    def head(self, now: int, wall: int) -> HeadEntry | None:
        if self.horizon_ms is None or now >= self.horizon_ms:
            return None
        due = [entry for entry in self.entries.values() if entry.visible_at <= wall]
        return max(due, key=lambda entry: entry.seq, default=None)


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


def read(history: list[Publication], at: int) -> Tail:
    """What the log shows at this moment."""
    there = [one for one in history if at < one.gone]
    entries = tuple(one.entry for one in there if one.stamped <= at)
    return Tail(entries, any(one.prepared <= at < one.stamped for one in there))


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
    history = publish(rng, settles=settles, delta=delta)
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
