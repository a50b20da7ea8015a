"""Sources that join later: named in a list that is read again. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from follower.commands.sync.sources import source_finder, split_sources
from follower.settings import CannotRun, Settings, load_settings
from leader_bridge.sync.discovery import looking_for_sources
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.sources.source import SourceUnavailable
from rpc.server.ranges.wire import Offer
from tests.support.virtual_time import run_virtual
from tests.sync.test_slow_sources import CIDS, TimedSource


class Named(TimedSource):
    """A source of a list; `is_there`: whether it can be reached."""

    is_there = True
    closed = 0

    async def offer(self) -> Offer:
        self.asked.append(asyncio.get_running_loop().time())
        if not self.is_there:
            raise SourceUnavailable(self.name)
        return await super().offer()

    async def close(self) -> None:
        self.closed += 1


def test_a_source_that_joins_is_used_within_a_minute_and_one_that_cannot_be_reached_is_looked_for_again() -> None:
    first, joins, gone = Named("first", 0.1), Named("joins", 0.1), Named("gone", 0.1)
    gone.is_there = False
    named: list[Named] = [first]
    looks: list[int] = []

    def find(known: Collection[str]) -> list[Named]:
        looks.append(len(known))
        return [one for one in named if one.name not in known]

    async def fill() -> None:
        pool = Pool([first])
        async with pool.running(), looking_for_sources(pool, find):
            await asyncio.sleep(61)
            assert list(pool.standings) == ["first"]
            named.extend([joins, gone])
            await asyncio.sleep(60)
            assert list(pool.standings) == ["first", "joins"]
            assert gone.closed == 1
            gone.is_there = True
            await asyncio.sleep(60)
            assert list(pool.standings) == ["first", "joins", "gone"]
            for cid in CIDS[:12]:
                await pool.objects([cid])
            await asyncio.sleep(600)
        # closed with the pool, as those that were there from the start
        assert [one.closed for one in (first, joins, gone)] == [1, 1, 2]

    run_virtual(fill())
    assert all(len(one.asked) >= 4 for one in (first, joins))
    # once a minute while there are fewer than sixteen
    assert len(looks) == 13


def test_no_more_are_looked_for_where_sixteen_are_in_use() -> None:
    sources = [Named(f"source {number}", 0.1) for number in range(40)]
    looks: list[int] = []

    def find(known: Collection[str]) -> list[Named]:
        looks.append(len(known))
        return [one for one in sources if one.name not in known]

    async def fill() -> int:
        pool = Pool(sources[:3])
        async with pool.running(), looking_for_sources(pool, find):
            await asyncio.sleep(1000)
            return pool.usable

    # sixteen at a time; those that were left out were closed
    assert run_virtual(fill()) == 19
    assert looks == [3]


def test_closing_ends_within_100_ms_while_a_source_that_was_found_hangs() -> None:
    class Hangs(Named):
        async def offer(self) -> Offer:
            await asyncio.Event().wait()
            raise AssertionError("it does not come here")

    found = Hangs("hangs", None)

    async def close() -> tuple[float, int]:
        pool = Pool([Named("first", 0.1)])
        async with pool.running(), looking_for_sources(pool, lambda known: [found]):
            await asyncio.sleep(65)
            began = asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - began, len(asyncio.all_tasks())

    took, tasks = run_virtual(close())
    assert took <= 0.1
    assert tasks == 1
    assert found.closed == 1


def settings(tmp_path: Path) -> Settings:
    (tmp_path / "token").write_text("a-token-of-some-length")
    return load_settings(None, {"FOLLOWER_SYNC_TOKEN_FILE": str(tmp_path / "token")})


def test_a_list_names_followers_and_nodes_a_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "sources"
    path.write_text("# region a\nhttp://one:1234\n\nnode:http://two:1234\n")
    text = f"http://zero:1234,list:{path}"
    assert split_sources(text) == ["http://zero:1234", "http://one:1234", "node:http://two:1234"]
    find = source_finder(settings(tmp_path), text)
    assert find is not None
    assert [source.name for source in find({"one:1234", "two:1234"})] == []
    path.write_text("http://one:1234\nhttp://three:1234\n")
    assert [source.name for source in find({"one:1234"})] == ["three:1234"]
    path.write_text("http://one:1234\nthree\n")
    with pytest.raises(CannotRun, match=r"neither \[shards:\]http"):
        split_sources(text)
    assert find({"one:1234"}) == []
    assert "the list of sources is not read again" in caplog.text
    assert source_finder(settings(tmp_path), "http://zero:1234") is None
