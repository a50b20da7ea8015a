"""What both places promise: rows of a tipset are there once, or not at all, whatever was run before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from chain.errors import BadRequest, NotHeld
from leader_bridge.tables import extract as extract_module
from leader_bridge.tables.blocks import BLOCK_HEADERS
from leader_bridge.tables.catalogue import TASKS, find_tasks
from leader_bridge.tables.extract import ExtractFailed
from leader_bridge.tables.messages import MESSAGES
from leader_bridge.tables.sinks import parquet_files, postgres
from leader_bridge.tables.sinks.opening import open_sink
from leader_bridge.tables.sinks.sink import SinkError
from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row, Task, Type, table
from tests.support.tables.places import KINDS, Place, new_place
from tests.support.tables.postgres import PASSWORD
from tests.tables.conftest import StoreOf

NAMES = ("block_headers", "messages", "receipts")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, lambda: tmp_path)


async def test_a_second_run_changes_nothing(place: Place, store_of: StoreOf) -> None:
    store = await store_of("devnet")
    first = await place.extract(store, *NAMES, high=300)
    rows = {name: place.rows(TASKS[name].table) for name in NAMES}
    assert first.rows == {name: len(rows[name]) for name in NAMES}
    assert len(rows["messages"]) > 100
    second = await place.extract(store, *NAMES, high=300)
    assert (second.kept, sum(second.rows.values())) == (3 * first.tipsets, 0)
    third = await place.extract(store, *NAMES, high=300, again=True)
    assert (third.kept, third.rows) == (0, first.rows)
    assert {name: place.rows(TASKS[name].table) for name in NAMES} == rows


async def test_ranges_in_any_order_make_the_same_rows(place: Place, store_of: StoreOf, tmp_path: Path) -> None:
    store = await store_of("devnet")
    for low, high in ((200, 260), (0, 40), (30, 220), (261, 300)):
        await place.extract(store, *NAMES, low=low, high=high)
    whole = Place(f"parquet:{tmp_path / 'whole'}")
    await whole.extract(store, *NAMES, high=300)
    for name in NAMES:
        assert place.rows(TASKS[name].table) == whole.rows(TASKS[name].table)


async def test_rows_of_another_tipset_are_withdrawn(place: Place, store_of: StoreOf) -> None:
    """A ledger that names other tipsets, as after a reorg, also one where the chain now has a null round."""
    store = await store_of("devnet")
    await place.extract(store, *NAMES, high=60)
    right = {name: place.rows(TASKS[name].table) for name in NAMES}
    empty = min(set(range(60)) - {row["height"] for row in right["block_headers"]})
    full = right["messages"][3]["height"]
    task = find_tasks(["messages"])[0]
    wrong = [(height, "left by a fork", "f1", "f1", 1, 0, 0, 0, 0, 0, 0) for height in (empty, full)]
    sink = await open_sink(place.url, [task.table])
    await sink.begin(empty, empty, [task])
    for row in wrong:
        await sink.end()
        await sink.begin(row[0], row[0], [task])
        await sink.replace(task, row[0], "bafyfork", _parts([row]))
    await sink.end()
    await sink.close()
    assert {row["cid"] for row in place.rows(task.table) if row["height"] in (empty, full)} == {"left by a fork"}
    report = await place.extract(store, *NAMES, high=60)
    assert report.withdrawn == 2
    assert {name: place.rows(TASKS[name].table) for name in NAMES} == right


async def _parts(rows: list[Row]) -> AsyncIterator[list[Row]]:
    yield rows


async def test_a_run_that_is_cancelled_is_continued(
    place: Place, store_of: StoreOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_of("devnet")
    monkeypatch.setattr(parquet_files, "FILE_EPOCHS", 64)
    whole = await place.extract(store, *NAMES, high=300)
    right = {name: place.rows(TASKS[name].table) for name in NAMES}
    seen = 0

    async def stopping(view: TipsetView) -> AsyncIterator[list[Row]]:
        nonlocal seen
        seen += 1
        if seen == 150:
            raise asyncio.CancelledError
        async for part in MESSAGES.rows(view):
            yield part

    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "messages", replace(MESSAGES, rows=stopping))
        with pytest.raises(asyncio.CancelledError):
            await place.extract(store, *NAMES, high=300, again=True)
    assert {name: place.rows(TASKS[name].table) for name in NAMES} == right
    last = await place.extract(store, *NAMES, high=300)
    assert last.kept == 3 * whole.tipsets


async def test_a_stopped_run_keeps_what_is_whole(place: Place, store_of: StoreOf) -> None:
    store = await store_of("devnet")
    stop = asyncio.Event()
    task = find_tasks(["messages"])[0]
    at = 0

    async def stopping(view: TipsetView) -> AsyncIterator[list[Row]]:
        nonlocal at
        at = view.height
        if view.height >= 100:
            stop.set()
        async for part in MESSAGES.rows(view):
            yield part

    sink = await open_sink(place.url, [task.table])
    try:
        report = await extract_module.extract(store, sink, [replace(task, rows=stopping)], high=300, stop=stop)
    finally:
        await sink.close()
    assert report.tipsets < 110
    rest = await place.extract(store, "messages", high=300)
    assert rest.kept == report.tipsets
    rows = place.rows(task.table)
    assert len(rows) == report.rows["messages"] + rest.rows["messages"] == len({row["cid"] for row in rows})


BIG = table(
    "big_rows",
    "Many rows of one tipset.",
    key="height number",
    columns="""
height  bigint  Epoch.
number  bigint  Number.
text    text    Text.
""",
)


@pytest.mark.parametrize("failing", [False, True])
async def test_more_rows_of_a_tipset_than_fit_in_memory(
    place: Place, store_of: StoreOf, failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written in several parts; if making them fails in between, none is left."""
    monkeypatch.setattr(parquet_files, "_GROUP_BYTES", 10_000)
    monkeypatch.setattr(postgres, "_SENT_BYTES", 10_000)

    async def many(view: TipsetView) -> AsyncIterator[list[Row]]:
        for first in range(0, 1000, 100):
            if failing and view.height == 7 and first == 500:
                raise NotHeld("the state")
            yield [(view.height, number, "x" * 100) for number in range(first, first + 100)]

    store = await store_of("devnet")
    task = Task("big_rows", BIG, many)
    sink = await open_sink(place.url, [BIG])
    try:
        if failing:
            with pytest.raises(ExtractFailed, match="big_rows at epoch 7: not held: the state"):
                await extract_module.extract(store, sink, [task], high=20)
        else:
            report = await extract_module.extract(store, sink, [task], high=20)
            assert report.rows == {"big_rows": 1000 * report.tipsets}
    finally:
        await sink.close()
    heights = sorted({row["height"] for row in place.rows(BIG)})
    tipsets = sorted({row["height"] for row in await _headers(place, store_of)})
    assert heights == [height for height in tipsets if height < 7 or not failing]
    assert len(place.rows(BIG)) == 1000 * len(heights)


async def _headers(place: Place, store_of: StoreOf) -> list[Row]:
    await place.extract(await store_of("devnet"), "block_headers", high=20)
    return place.rows(BLOCK_HEADERS.table)  # type: ignore[return-value]


async def test_epochs_that_the_chain_has_not(place: Place, store_of: StoreOf) -> None:
    store = await store_of("devnet")
    with pytest.raises(BadRequest, match=r"epochs 5 to 99999: the store's head is at \d+"):
        await place.extract(store, "messages", low=5, high=99999)


def test_an_unknown_task_lists_those_that_there_are() -> None:
    with pytest.raises(BadRequest, match=r"'blocks' is no task: block_headers, block_parents, messages, .* and all"):
        find_tasks(["blocks"])
    assert [task.name for task in find_tasks(["derived_gas_outputs", "messages"])] == ["messages", "gas_outputs"]
    assert len(find_tasks(["all"])) == len(TASKS)


async def test_what_is_no_place_is_refused() -> None:
    for wrong in ("tables", "parquet:", "mysql://me:s3cret@host/db", "postgresql:db"):
        with pytest.raises(BadRequest, match="is no place for tables") as error:
            await open_sink(wrong, [])
        assert "s3cret" not in str(error.value)


async def test_a_password_is_in_no_error(place: Place) -> None:
    if place.url.startswith("parquet:"):
        return
    for url in (
        place.url.replace("analyst:", "nobody:"),
        place.url.replace(PASSWORD, "s3cret"),
        place.url.replace(PASSWORD, "s3c%ret"),
        place.url.replace("?", "?bad=s3cret&"),
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db",
    ):
        with pytest.raises(SinkError) as error:
            await open_sink(url, [])
        assert not [word for word in (PASSWORD, "s3cret", "s3c%ret") if word in str(error.value)], str(error.value)


async def test_a_database_that_is_gone_is_noticed(place: Place) -> None:
    if place.url.startswith("parquet:"):
        return
    for url, idle in ((place.url, "30"), (f"{place.url}&keepalives_idle=77", "77")):
        sink = await open_sink(url, [])
        assert isinstance(sink, postgres.PostgresSink)
        told = sink._connection.info.get_parameters()
        await sink.close()
        assert (told["keepalives_idle"], told["keepalives_count"], told["tcp_user_timeout"]) == (idle, "6", "90000")
        assert told["connect_timeout"] == "30"


async def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    sink = await open_sink(f"parquet:{tmp_path}", [])
    with pytest.raises(SinkError, match="another run writes tables into"):
        await open_sink(f"parquet:{tmp_path}", [])
    await sink.close()
    await (await open_sink(f"parquet:{tmp_path}", [])).close()


async def test_what_is_not_ours_is_not_written_over(place: Place, store_of: StoreOf) -> None:
    store = await store_of("devnet")
    await place.extract(store, "messages", high=9)
    if place.url.startswith("parquet:"):
        (file,) = Path(place.url.removeprefix("parquet:")).glob("messages/*.parquet")
        file.write_bytes(b"PAR1, but not whole")
        said = "is no whole Parquet file"
    else:
        with psycopg.connect(place.url) as connection:
            connection.execute("ALTER TABLE messages DROP COLUMN nonce")
        said = "table messages lacks the column nonce"
    with pytest.raises(SinkError, match=said):
        await place.extract(store, "messages", high=20)


async def test_text_that_postgresql_does_not_keep(tmp_path: Path) -> None:
    """The character 0, in text and escaped in JSON; a backslash that is escaped itself begins no escape."""
    kinds = table(
        "odd",
        "Odd.",
        key="height",
        columns="""
height  bigint  Epoch.
text    text    Text.
json    jsonb?  JSON.
number  wide    A number of any size.
bytes   bytea?  Bytes.
""",
    )
    assert {column.type for column in kinds.columns} >= {Type.WIDE, Type.JSON, Type.BYTES}
    task = Task("odd", kinds, lambda view: _parts([]))
    rows: list[Row] = [
        (1, "a\0b\t\n\\N", r'{"a":"x\u0000y\\u0000z"}', 10**60, b"\0\xff"),
        (2, "", None, -1, None),
    ]
    for kind in KINDS:
        place = new_place(kind, lambda: tmp_path)
        sink = await open_sink(place.url, [kinds])
        await sink.begin(0, 2, [task])
        for row in rows:
            await sink.replace(task, row[0], "bafy", _parts([row]))
        await sink.end()
        await sink.close()
        nul = "\0" if kind == "parquet" else ""
        first, second = place.rows(kinds)
        assert first["text"] == f"a{nul}b\t\n\\N"
        assert first["json"] == {"a": f"x{nul}y\\u0000z"}
        assert (first["number"], first["bytes"]) == (10**60, b"\0\xff")
        assert list(second.values()) == [2, "", None, -1, None]
