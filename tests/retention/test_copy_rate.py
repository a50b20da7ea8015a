"""The rate of a pass: a limit, and less while reads are slow."""

from __future__ import annotations

import pytest

from chain.index.kept import DEFAULT_MESSAGE_EPOCHS, DEFAULT_STATE_EPOCHS, LEAST_EPOCHS
from follower.settings_table import BY_NAME
from leader_bridge.retention.copy_rate import CopyRate
from leader_bridge.retention.policy import Policy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


async def test_no_more_objects_than_the_limit_are_let_through() -> None:
    clock = Clock()
    rate = CopyRate(1000, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        await rate.take(50)
    assert 4.9 <= clock.now <= 5.0
    # what was not used is not saved up
    clock.now += 100
    before = clock.now
    for _ in range(20):
        await rate.take(50)
    assert 0.9 <= clock.now - before <= 1.0


async def test_slow_reads_halve_the_rate_and_usual_ones_bring_it_back() -> None:
    clock = Clock()
    rate = CopyRate(1000, clock=clock, sleep=clock.sleep)
    for _ in range(200):
        rate.note(0.002)
    assert rate.rate == 1000
    for _ in range(300):
        rate.note(0.02)
    assert rate.rate <= 125
    slow = rate.rate
    for _ in range(1000):
        rate.note(0.002)
    assert rate.rate == 1000 > slow
    # fast ones, twice as slow as usual, are nobody's trouble
    rate = CopyRate(1000, clock=clock, sleep=clock.sleep)
    for seconds in (0.00001, 0.0005):
        for _ in range(300):
            rate.note(seconds)
    assert rate.rate == 1000
    # it never stands still
    for at in range(5000):
        rate.note(0.01 * 1.01 ** min(at, 900))
    assert rate.rate >= 50


def test_a_policy_says_the_lowest_epochs() -> None:
    policy = Policy(300, 1000, None)
    assert (policy.lowest_state(500), policy.lowest_messages(500), policy.lowest_indices(500)) == (200, 0, 0)
    assert not policy.is_archive and Policy().is_archive
    assert LEAST_EPOCHS == 1800 < DEFAULT_STATE_EPOCHS == BY_NAME["keep_state_epochs"].default
    assert BY_NAME["keep_message_epochs"].default == DEFAULT_MESSAGE_EPOCHS
    for name in ("keep_state_epochs", "keep_message_epochs", "keep_index_epochs"):
        setting = BY_NAME[name]
        assert setting.parse("all") is None and setting.shown(None) == "all"
        assert setting.parse(str(LEAST_EPOCHS)) == LEAST_EPOCHS
        with pytest.raises(ValueError, match=r"from 1800 .* or all"):
            setting.parse("1799")
