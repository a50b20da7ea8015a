"""Rates that the processes of a machine share: as one bucket, whoever takes from it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.server.gate.gate import GateSettings
from rpc.server.gate.shared_rates import _DIGEST_BYTES, _SLOT, _SLOTS, _TIME, SharedRates
from rpc.server.gate.token_bucket import TokenBucket
from tests.support.http_raw import post
from tests.support.paths import ROOT
from tests.support.wire_server import call, node, soon


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> SharedRates:
    return SharedRates(tmp_path_factory.mktemp("rates") / "rates")


@given(
    st.floats(0.01, 1000),
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10)), max_size=30),
)
def test_it_is_a_token_bucket(rates: SharedRates, rate: float, burst: float, calls: list[tuple[float, int]]) -> None:
    clock = Clock()
    one, other = TokenBucket(rate, burst, clock), rates.bucket(f"{rate} {burst} {calls}", rate, burst)
    other._clock = clock
    for passed, amount in calls:
        clock.now += passed
        wait = one.wait_seconds(amount)
        assert other.wait_seconds(amount) == pytest.approx(wait, abs=1e-6 / rate)
        if not wait:
            one.take(amount)
            other.take(amount)


def test_all_who_open_the_file_take_from_one_bucket(tmp_path: Path) -> None:
    clock = Clock()
    one, other = (SharedRates(tmp_path / "rates", clock) for _ in range(2))
    mine, theirs = one.bucket("tenant a", 10, 20), other.bucket("tenant a", 10, 20)
    mine.take(15)
    assert theirs.wait_seconds(10) == pytest.approx(0.5)
    clock.now += 0.5
    assert theirs.wait_seconds(10) == 0
    theirs.take(10)
    assert mine.wait_seconds(1) == pytest.approx(0.1)
    # another tenant, and another quota of the same one
    assert other.bucket("tenant b", 10, 20).wait_seconds(20) == 0
    assert other.bucket("tenant a", 20, 20).wait_seconds(20) == 0
    assert (tmp_path / "rates").stat().st_mode & 0o077 == 0


def test_a_rate_that_is_full_gives_its_place_away_and_a_full_table_harms_nobody(tmp_path: Path) -> None:
    clock = Clock()
    table = SharedRates(tmp_path / "rates", clock)
    bucket = table.bucket("a", 1, 5)
    bucket.take(5)
    # every place is somebody's who still needs it
    for at in range(_SLOTS):
        if _SLOT.unpack_from(table._table, at * _SLOT.size)[0] != bucket._digest:  # type: ignore[attr-defined]
            _SLOT.pack_into(table._table, at * _SLOT.size, b"x" * _DIGEST_BYTES, clock.now + 3)
    late = table.bucket("b", 1, 5)
    late.take(5)
    assert (late.wait_seconds(1), bucket.wait_seconds(1)) == (1, 1)
    clock.now += 10
    assert late.wait_seconds(5) == 0
    late.take(5)
    assert table.bucket("b", 1, 5).wait_seconds(5) == 5
    assert bucket.wait_seconds(5) == 0


def test_a_time_of_another_start_of_the_machine_is_no_debt(tmp_path: Path) -> None:
    clock = Clock()
    table = SharedRates(tmp_path / "rates", clock)
    bucket = table.bucket("a", 1, 5)
    bucket.take(1)
    at = bucket._find(clock.now)  # type: ignore[attr-defined]
    _TIME.pack_into(table._table, at + _DIGEST_BYTES, clock.now + 1e6)
    assert bucket.wait_seconds(5) == 0


_FLOOD = """
import sys
from pathlib import Path
from rpc.server.gate.shared_rates import SharedRates
bucket = SharedRates(Path(sys.argv[1])).bucket("tenant a", 0.001, 100)
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for _ in range(2000):
    if not bucket.wait_seconds(1):
        bucket.take(1)
        taken += 1
print(taken)
"""


async def test_processes_that_flood_have_one_quota_together(tmp_path: Path) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _FLOOD, str(tmp_path / "rates"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    taken = [int((await process.communicate(b"go\n"))[0]) for process in processes]
    # four quotas would be 400; two that come in the same microsecond may count once
    assert 100 <= sum(taken) < 200, taken


async def test_two_servers_share_the_rate_of_an_address(tmp_path: Path) -> None:
    gate = GateSettings(rate_limit_per_client=0.01)
    makers = [SharedRates(tmp_path / "rates").bucket for _ in range(2)]
    async with node(gate=gate, make_bucket=makers[0]) as one, node(gate=gate, make_bucket=makers[1]) as other:
        statuses = []
        for turn in range(14):
            port = (one, other)[turn % 2].port
            answer = await soon(post(port, call("Test.Echo", 1), headers={"X-Forwarded-For": "203.0.113.7"}))
            statuses.append(answer.status)
        assert statuses == [200] * 10 + [429] * 4
