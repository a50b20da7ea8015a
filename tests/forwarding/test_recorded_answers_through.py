"""The recorded answers as the judge of read-through: the store holds the newest epochs, a played node the chain."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from follower.commands.comparison import compare, read_records
from rpc.server.server import serve
from tests.forwarding.read_through_follower import follower
from tests.support.recorded import recorded
from tests.support.recorded_answers import ANSWERS_COMPARED, COMPARED, left_out

#: what cannot be equal, by method and parameters, and why
NOT_EQUAL = {
    r"Filecoin\.ChainValidateIndex ": "it compares the rows of the store, which are not there",
}
#: the fast run asks one recorded question in so many
SAMPLE = 40


def sample(source: Path, target: Path, every: int) -> int:
    """Write one record in `every` to a file; how many."""
    written = 0
    with source.open("rb") as packed, target.open("w") as out:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
        for number, line in enumerate(lines):
            if number % every == 0:
                out.write(line)
                written += 1
    return written


async def assert_equal_answers(folder: str, records: Path, least: int, tell: Callable[[str, object], None]) -> None:
    """Every answer is the recorded one, errors to the letter, but for `NOT_EQUAL`; no node is taken for a liar."""
    async with follower(folder=folder, fill_epochs=0) as one:
        server = await serve(one.services, "127.0.0.1", 0, dispatcher=one.dispatcher)
        try:
            exclude = "|".join([left_out(folder), *NOT_EQUAL])
            report = await compare(f"http://127.0.0.1:{server.port}", records, exclude=exclude)
        finally:
            await server.stop(0)
    tell(ANSWERS_COMPARED, report.total)
    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert not report.texts, "\n".join(map(str, report.texts[:5]))
    assert report.equal == report.total >= least
    assert one.read_through.lies.count == 0
    # the store would not have had them
    assert one.read_through.answered > report.total // 50


async def test_a_sample_of_the_recorded_answers(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    records = tmp_path / "sample.jsonl"
    assert sample(recorded("devnet/rpc.jsonl.zst"), records, SAMPLE) > 900
    await assert_equal_answers("devnet", records, 900, record_property)


@pytest.mark.long
@pytest.mark.parametrize("folder", ["devnet", "upgrades", "busy"])
async def test_all_recorded_answers(folder: str, record_property: Callable[[str, object], None]) -> None:
    records = recorded(f"{folder}/rpc.jsonl.zst")
    lacking = count(records, "|".join(NOT_EQUAL), left_out(folder))
    await assert_equal_answers(folder, records, COMPARED[folder] - lacking, record_property)


def count(records: Path, wanted: str, excluded: str) -> int:
    """Records that match `wanted` and not `excluded`."""
    pattern = re.compile(wanted)
    return sum(
        pattern.search(f"{record.call} ") is not None
        for record in read_records(records, re.compile(""), (), re.compile(excluded))
    )


async def test_recorded_traces(tmp_path: Path) -> None:
    """Traces are a node's word, of blocks of the head's chain alone."""
    every = recorded("devnet/traces.jsonl.zst")
    records = tmp_path / "traces.jsonl"
    sample(every, records, SAMPLE)
    async with follower(fill_epochs=0, answers=[every]) as one:
        server = await serve(one.services, "127.0.0.1", 0, dispatcher=one.dispatcher)
        try:
            report = await compare(f"http://127.0.0.1:{server.port}", records)
        finally:
            await server.stop(0)
    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert report.equal == report.total > 0
    assert one.read_through.answered > report.total // 2
