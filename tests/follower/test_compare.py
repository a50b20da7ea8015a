"""The comparison must find every kind of difference, and nothing where there is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from follower.commands.comparison import (
    CANNOT_RUN,
    DIFFERENT,
    EQUAL,
    CompareError,
    Record,
    compare,
    first_difference,
    judge,
    loads,
    read_records,
)
from rpc.errors import NOT_SERVED

Answer = Callable[[str, str, Any], dict[str, Any]]

RECORDS = [
    {"path": "/rpc/v1", "method": "Filecoin.ChainHead", "params": [], "result": {"Height": 3, "Cids": [1, 2]}},
    {"path": "/rpc/v1", "method": "Filecoin.ChainGetParentReceipts", "params": ["g"], "result": None},
    {"path": "/rpc/v0", "method": "Filecoin.ChainHead", "params": [], "result": {"Height": 3}},
    {
        "path": "/rpc/v1",
        "method": "Filecoin.ChainGetBlock",
        "params": ["x"],
        "error": {"code": 1, "message": "ipld: could not find x"},
    },
    {"path": "/rpc/v1", "method": "Filecoin.Version", "params": [], "result": "1"},
]


def recorded_answer(path: str, method: str, params: Any) -> dict[str, Any]:
    for row in RECORDS:
        if (row["path"], row["method"], row["params"]) == (path, method, params):
            return {key: row[key] for key in ("result", "error") if key in row}
    return {"error": {"code": -32601, "message": "unknown"}}


@pytest.fixture(params=["jsonl", "jsonl.zst"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in RECORDS).encode()
    path = tmp_path / f"rpc.{request.param}"
    path.write_bytes(zstandard.compress(text) if request.param.endswith("zst") else text)
    return path


@asynccontextmanager
async def serving(answer: Answer, asked: list[Any] | None = None) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        calls = body if isinstance(body, list) else [body]
        if asked is not None:
            asked.append(body)
        answers = [
            {"jsonrpc": "2.0", "id": call["id"], **answer(request.path, call["method"], call["params"])}
            for call in calls
        ]
        # answers of a batch may come in any order
        return web.json_response(answers[::-1] if isinstance(body, list) else answers[0])

    app = web.Application()
    app.router.add_post("/rpc/{version}", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@pytest.mark.parametrize("batch", [1, 2, 20])
async def test_all_equal(records: Path, batch: int) -> None:
    async with serving(recorded_answer) as target:
        found = await compare(target, records, "Chain", batch=batch)
    assert (found.total, found.equal, found.exit_code) == (4, 4, EQUAL)
    assert found.whole_methods == len(found.tallies) == 4
    assert not found.differences


async def test_methods_paths_and_exclusions_choose(records: Path) -> None:
    asked: list[Any] = []
    async with serving(recorded_answer, asked) as target:
        found = await compare(target, records, "Chain", paths=["/rpc/v1"], exclude="GetBlock|Head", batch=1)
    assert set(found.tallies) == {("/rpc/v1", "Filecoin.ChainGetParentReceipts")}
    assert [call["params"] for call in asked] == [["g"]]


@pytest.mark.parametrize(
    ("method", "answer", "word"),
    [
        ("ChainHead", {"result": {"Height": 4, "Cids": [1, 2]}}, "result.Height: recorded 3, answered 4"),
        ("ChainHead", {"result": {"Height": 3.0, "Cids": [1, 2]}}, "3.0"),
        ("ChainHead", {"result": {"Height": 3, "Cids": [1, 2, 3]}}, "2 items recorded, 3"),
        ("ChainHead", {"result": {"Height": 3, "Cids": [2, 1]}}, "result.Cids[0]"),
        ("ChainHead", {"result": {"Height": 3}}, "no such key"),
        ("ChainHead", {"result": {"Height": 3, "Cids": [1, 2], "More": None}}, "result.More: not recorded"),
        ("ChainHead", {"result": None}, "answered null"),
        ("ChainHead", {"error": {"code": 1, "message": "no"}}, "answered error 1: no"),
        ("ChainGetParentReceipts", {"result": []}, "recorded null, answered []"),
        ("ChainGetBlock", {"error": {"code": 2, "message": "ipld: could not find x"}}, "answered error 2"),
        ("ChainGetBlock", {"result": {}}, "recorded error 1"),
        ("ChainGetBlock", {"error": {"code": True, "message": "no"}}, "error True"),
        ("ChainGetBlock", {}, "not an answer"),
    ],
)
async def test_each_kind_of_difference(records: Path, method: str, answer: dict[str, Any], word: str) -> None:
    def wrong(path: str, called: str, params: Any) -> dict[str, Any]:
        if (path, called) == ("/rpc/v1", "Filecoin." + method):
            return answer
        return recorded_answer(path, called, params)

    async with serving(wrong) as target:
        found = await compare(target, records, "Chain")
    assert (found.equal, found.exit_code) == (3, DIFFERENT)
    assert word in found.differences[0].text
    assert found.whole_methods == 3
    assert any(word in line for line in found.lines(5))


async def test_not_served_yet_is_equal_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rpc.jsonl"
    code = {"code": NOT_SERVED, "message": "not served"}
    path.write_text(json.dumps({"path": "/rpc/v1", "method": "M", "params": [], "error": code}) + "\n")
    async with serving(lambda *_: {"error": code}) as target:
        found = await compare(target, path)
    assert found.equal == 0
    assert found.tallies["/rpc/v1", "M"].not_served == 1
    assert found.exit_code == DIFFERENT


async def test_other_texts_are_told_but_equal(records: Path) -> None:
    def other(path: str, method: str, params: Any) -> dict[str, Any]:
        answer = recorded_answer(path, method, params)
        return {"error": {**answer["error"], "message": "gone"}} if "error" in answer else answer

    async with serving(other) as target:
        found = await compare(target, records, "GetBlock")
    assert found.exit_code == EQUAL
    assert found.tallies["/rpc/v1", "Filecoin.ChainGetBlock"].other_text == 1
    assert "gone" in found.texts[0].text


async def test_nothing_matches(records: Path) -> None:
    async with serving(recorded_answer) as target:
        found = await compare(target, records, "NoSuchMethod")
    assert found.exit_code == CANNOT_RUN


async def test_differences_kept_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "rpc.jsonl"
    path.write_text(
        "".join(json.dumps({"path": "/rpc/v1", "method": "M", "params": [n], "result": n}) + "\n" for n in range(99))
    )
    async with serving(lambda *_: {"result": -1}) as target:
        found = await compare(target, [path, path], report=5, batch=3)
    assert (found.total, found.equal, len(found.differences)) == (198, 0, 5)


async def test_answers_that_are_no_json(records: Path) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=502, text="bad gateway")

    app = web.Application()
    app.router.add_post("/rpc/{version}", handle)
    async with TestServer(app) as server:
        found = await compare(f"http://127.0.0.1:{server.port}", records, "Chain")
    assert found.equal == 0
    assert "502" in found.differences[0].text


async def test_a_target_that_is_not_there(records: Path, unused_tcp_port: int) -> None:
    with pytest.raises(CompareError, match="does not answer"):
        await compare(f"http://127.0.0.1:{unused_tcp_port}", records)


@pytest.mark.parametrize("text", ["{", '{"path": "/rpc/v1"}', "[]", '"x"'])
async def test_files_that_hold_no_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rpc.jsonl"
    path.write_text(text)
    with pytest.raises(CompareError, match="line 1"):
        await compare("http://127.0.0.1:1", path)


def test_a_cut_file_is_told(tmp_path: Path) -> None:
    import re

    path = tmp_path / "rpc.jsonl.zst"
    path.write_bytes(b"no zstandard frame at all")
    with pytest.raises(CompareError):
        list(read_records(path, re.compile("")))


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("1", "1", True),
        ("1", "1.0", False),
        ("1", "true", False),
        ("0", "false", False),
        ("null", "false", False),
        ("18446744073709551616", "18446744073709551616", True),
        ("18446744073709551616", "18446744073709551617", False),
        ("1234567890123456789012345678901234567890", "1234567890123456789012345678901234567891", False),
        ("0.10000000000000000001", "0.1", False),
        ("1e2", "1e2", True),
        ("1.5", "1.50", True),
        ('"1"', "1", False),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', True),
        ("[1,2]", "[2,1]", False),
        ("[]", "null", False),
        ("[]", "{}", False),
    ],
)
def test_values_are_compared_exactly(left: str, right: str, equal: bool) -> None:
    row = [loads(f'{{"result":{text}}}'.encode())["result"] for text in (left, right)]
    assert (first_difference(*row) is None) is equal
    assert (first_difference(*row[::-1]) is None) is equal


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_no_difference_only_between_equal_values(left: Any, right: Any) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (first_difference(left, right) is None) is same


@given(JSON)
def test_a_value_is_its_own_record(value: Any) -> None:
    record = Record("/rpc/v1", "M", [], {"result": value}, 0)
    assert judge(record, {"result": json.loads(json.dumps(value))}) == (None, False)
