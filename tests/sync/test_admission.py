"""The limits of ranges hold for all processes of a machine that share a file."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blockstore.store import Store
from leader_bridge.sync.sources.peer import PeerSource
from leader_bridge.sync.sources.source import SourceBusy
from rpc.server.ranges.admission import OwnAdmission, SharedAdmission
from rpc.server.ranges.page import RangeLimits
from tests.support.paths import ROOT
from tests.sync.conftest import FAST, TOKEN, giving, peer

NAMES = ["a", "b"]


def test_processes_that_share_a_file_admit_together_what_one_alone_would(tmp_path: Path) -> None:
    chance = random.Random(4)
    shared = [SharedAdmission(tmp_path / "rates", names, 5, 8) for names in (NAMES, NAMES[::-1], NAMES)]
    own = OwnAdmission(NAMES, 5, 8)
    now = 1000.0
    admitted: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(3000):
        now += chance.choice([0.0, 0.001, 0.01, 0.1])
        name = chance.choice(NAMES)
        wait = chance.choice(shared).admit(name, now)
        assert wait == pytest.approx(own.admit(name, now))
        if not wait:
            admitted[name].append(now)
    both = sorted(admitted["a"] + admitted["b"])
    for times, limit in ((admitted["a"], 5), (admitted["b"], 5), (both, 8)):
        assert all(sum(first <= one < first + 1 for one in times) <= limit for first in times)
    assert len(both) > 100


def test_other_tokens_and_limits_have_a_file_of_their_own(tmp_path: Path) -> None:
    one = SharedAdmission(tmp_path / "rates", NAMES, 1, 1)
    assert one.admit("a", 50.0) == 0
    assert one.admit("b", 50.0) == 1
    assert SharedAdmission(tmp_path / "rates", [*NAMES, "c"], 1, 1).admit("b", 50.0) == 0
    assert SharedAdmission(tmp_path / "rates", NAMES, 2, 2).admit("b", 50.0) == 0
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_times_of_before_the_machine_was_started_again_count_for_nothing(tmp_path: Path) -> None:
    one = SharedAdmission(tmp_path / "rates", NAMES, 1, 9)
    assert one.admit("a", 90_000.0) == 0
    assert SharedAdmission(tmp_path / "rates", NAMES, 1, 9).admit("a", 12.0) == 0


def test_another_process_counts_too(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rpc.server.ranges.admission import SharedAdmission;"
        "one = SharedAdmission(Path(sys.argv[1]), ['a', 'b'], 3, 9);"
        "print([one.admit('a', 7.0) for _ in range(2)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    assert printed.strip() == "[0.0, 0.0]"
    here = SharedAdmission(tmp_path / "rates", NAMES, 3, 9)
    assert [here.admit("a", 7.5), here.admit("a", 7.5)] == [0.0, 0.5]


def test_places_of_answers_are_those_of_all_processes_and_a_killed_one_leaves_its_own(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rpc.server.ranges.admission import SharedAdmission;"
        "one = SharedAdmission(Path(sys.argv[1]), ['a', 'b'], 3, 9);"
        "print([one.enter(3) for _ in range(2)], flush=True); sys.stdin.read()"
    )
    here = SharedAdmission(tmp_path / "rates", NAMES, 3, 9)
    assert here.enter(3) == 0
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "[1, 2]\n"
            assert here.enter(3) is None
            here.leave(0)
            assert here.enter(3) == 0
        finally:
            other.kill()
    assert sorted([here.enter(3), here.enter(3)]) == [1, 2]  # type: ignore[type-var]
    assert here.enter(3) is None
    here.leave(1)
    assert here.enter(3) == 1


@pytest.mark.recorded
async def test_an_answer_in_the_making_takes_its_place_from_another_follower_too(devnet: Store, tmp_path: Path) -> None:
    shared = [SharedAdmission(tmp_path / "rates", ["test"], 100, 100) for _ in range(2)]
    limits = RangeLimits(100, 100, at_once=1)
    async with (
        giving(devnet, limits, admission=shared[0]) as (first, _),
        giving(devnet, limits, admission=shared[1]) as (second, _),
    ):
        source = peer(second)
        await source.offer()
        # its body does not come: the answer is in the making
        _, writer = await asyncio.open_connection("127.0.0.1", first.port)
        head = b"POST /obj HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 100\r\n\r\n"
        writer.write(head % TOKEN.encode())
        async with asyncio.timeout(60):
            while shared[1].enter(1) is not None:
                shared[1].leave(0)
                await asyncio.sleep(0.01)
        with pytest.raises(SourceBusy):
            await source.offer()
        writer.close()
        await source.close()


@pytest.mark.recorded
async def test_two_followers_of_a_machine_refuse_together(devnet: Store, tmp_path: Path) -> None:
    now = time.monotonic()

    def stands() -> float:
        return now

    shared = [SharedAdmission(tmp_path / "rates", ["test"], 3, 9) for _ in range(2)]
    async with (
        giving(devnet, FAST, clock=stands, admission=shared[0]) as (first, _),
        giving(devnet, FAST, clock=stands, admission=shared[1]) as (second, _),
    ):
        sources: list[PeerSource] = [peer(first), peer(second)]
        for source in (sources[0], sources[1], sources[0]):
            await source.offer()
        for source in sources:
            with pytest.raises(SourceBusy):
                await source.offer()
        for source in sources:
            await source.close()
