"""`follower bench` against servers that are slow, limited, broken, absent, and against a real follower."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from devnode.sim_chain import SimSettings
from devnode.simulate import start_simulated
from follower.cli import build_parser
from follower.commands.command import CANNOT_RUN, DONE, FAILED
from follower.commands.load.bench import _measured
from follower.commands.load.connection import fault, requests_of
from follower.commands.load.local_cpu import cpu_seconds, is_local, listening_pids, with_children
from follower.commands.load.mix import Call
from follower.commands.load.target import BadTarget, parse_target
from tests.support.proxies import free_port

Answer = Callable[[int], web.Response]


def result(value: Any = 1) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": value})


@asynccontextmanager
async def serving(answer: Answer, delay: float = 0.0) -> AsyncIterator[str]:
    asked = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal asked
        await request.read()
        asked += 1
        if delay:
            await asyncio.sleep(delay)
        return answer(asked)

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    file = tmp_path / "mix.jsonl"
    file.write_bytes(b'{"method":"eth_chainId","params":[]}\n{"method":"eth_blockNumber","params":[]}\n')
    return file


async def bench(*arguments: str) -> int:
    args = build_parser().parse_args(["bench", "--seconds", "0.2", "--concurrency", "4", *arguments])
    return await _measured(args)


async def report(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "report.json"
    assert await bench(*arguments, "--json", str(file)) in (DONE, FAILED)
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    return found


async def test_a_server_beside_a_slower_one(mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(lambda _: result(), 0.002) as fast, serving(lambda _: result(), 0.04) as slow:
        found = await report(tmp_path, "--target", fast, "--baseline", slow, "--mix", str(mix))
    assert [row["name"] for row in found["rows"]] == ["mix", "eth_chainId", "eth_blockNumber"]
    for row in found["rows"]:
        assert row["ratio"]["requests_per_second"] > 1
        assert row["ratio"]["lowest"] <= row["ratio"]["requests_per_second"] <= row["ratio"]["highest"]
        assert row["target"]["errors"] == row["baseline"]["errors"] == 0
        assert 2 <= row["target"]["p50_ms"] <= row["target"]["p99_ms"]
        assert row["baseline"]["p50_ms"] >= 39
        # the slices last 0.2 s at least, longer on a busy machine
        assert 0 < row["target"]["requests_per_second"] <= row["target"]["answers"] / 0.2 * 1.1
    out = capsys.readouterr().out.splitlines()
    assert "beside" in out[0]
    assert [line.split()[0] for line in out[2:5]] == ["mix", "eth_chainId", "eth_blockNumber"]
    assert len({len(line) for line in out[1:5]}) == 1, "the columns stand below their heads"
    assert any("shares this machine" in line for line in out)


async def test_errors_are_counted_by_kind_and_429_apart(
    mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(number: int) -> web.Response:
        return [
            result({"error": "a field of this name is no error"}),
            web.Response(status=429, text="later"),
            web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}}),
            web.Response(status=503, text="busy"),
            result(None),
        ][number % 5]

    async with serving(answer) as target:
        found = await report(tmp_path, "--target", target, "--mix", str(mix))
    row = found["rows"][0]["target"]
    assert set(row["error_kinds"]) == {"error -32000", "HTTP 503"}
    assert row["errors"] == sum(row["error_kinds"].values())
    # each kind is a fifth of all, results two
    assert row["answers"] / 2 == pytest.approx(row["limited"], abs=8)
    assert row["limited"] == pytest.approx(row["error_kinds"]["HTTP 503"], abs=8)
    # which kind stands first is open: the most frequent does
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mix, target: ")]
    kinds = row["error_kinds"]
    assert set(line.removeprefix("mix, target: ").split(", ")) == {f"{kind} {kinds[kind]} times" for kind in kinds}


async def test_a_server_that_closes_and_one_that_gives_no_result(mix: Path, tmp_path: Path) -> None:
    def closing(number: int) -> web.Response:
        answer = result()
        answer.force_close()
        return answer

    async with serving(closing) as target:
        row = (await report(tmp_path, "--target", target, "--mix", str(mix)))["rows"][0]["target"]
        assert row["answers"] > 4
        assert not row["errors"]
    async with serving(lambda _: web.json_response({"id": 1, "error": {"code": 1, "message": "no"}})) as target:
        assert await bench("--target", target, "--mix", str(mix)) == FAILED


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda _: web.Response(text="<html>"), "not a JSON-RPC server: HTTP 200"),
        (lambda _: web.Response(status=404, text="no"), "not a JSON-RPC server: HTTP 404"),
        (lambda _: web.Response(status=301, headers={"Location": "https://x"}), "sends clients elsewhere"),
        (lambda _: web.Response(status=401), "wants a token"),
        (lambda _: web.json_response([1]), "not a JSON-RPC server"),
    ],
)
async def test_what_is_no_server_is_named(
    answer: Answer, text: str, mix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(answer) as target:
        assert await bench("--target", target, "--mix", str(mix)) == CANNOT_RUN
        assert text in capsys.readouterr().err
        # the same of a baseline
        async with serving(lambda _: result()) as good:
            assert await bench("--target", good, "--baseline", target, "--mix", str(mix)) == CANNOT_RUN
    assert text in capsys.readouterr().err


async def test_what_is_not_there_is_named(mix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, text in (
        (f"http://127.0.0.1:{free_port()}", "connection refused"),
        ("http://nowhere.invalid:1234", "no such host"),
        ("nowhere", "a target is a URL"),
        ("http://a:1,http://b:2", "a target is one server"),
    ):
        assert await bench("--target", target, "--mix", str(mix)) == CANNOT_RUN
        assert text in capsys.readouterr().err
    assert await bench("--target", "http://127.0.0.1:1", "--mix", str(tmp_path / "none")) == CANNOT_RUN
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--concurrency", "0"],
        ["--concurrency", "5000"],
        ["--baseline-pid", "1"],
    ],
)
def test_arguments_are_checked(arguments: list[str]) -> None:
    from follower.settings import CannotRun

    args = build_parser().parse_args(["bench", "--target", "http://127.0.0.1:1", *arguments])
    with pytest.raises(CannotRun):
        args.run({}, args)


async def test_a_follower_is_asked_about_its_own_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = await start_simulated(SimSettings(null_rate=0), epochs=12)
    try:
        found = await report(tmp_path, "--target", node.base, "--pid", str(os.getpid()))
    finally:
        await node.stop()
    rows = {row["name"]: row["target"] for row in found["rows"]}
    assert set(rows) == {
        "mix", "eth_getBlockByNumber", "Filecoin.StateGetActor", "Filecoin.WalletBalance", "eth_chainId", "eth_getLogs",
        "eth_blockNumber", "Filecoin.ChainHead", "eth_getBalance",
    }  # fmt: skip
    assert all(row["answers"] for row in rows.values())
    assert all(row["cpu_us"] is not None for row in rows.values())
    assert rows["Filecoin.ChainHead"]["bytes_per_answer"] > 500
    # the server runs in the process of the load generator here
    assert rows["Filecoin.ChainHead"]["errors"] == 0


async def test_the_processes_of_a_local_server_are_found() -> None:
    async with serving(lambda _: result()) as target:
        pids = listening_pids(int(target.rpartition(":")[2]))
    assert pids == [os.getpid()]
    assert with_children(pids)[0] == os.getpid()
    assert cpu_seconds(pids) > 0
    assert cpu_seconds([]) == 0
    assert is_local("127.0.0.1")
    # an address of the range for documentation
    assert not is_local("192.0.2.1")


def test_a_request_names_its_host_and_holds_its_token() -> None:
    info = parse_target("https://node.example/key/rpc/v1?token=abc")
    [request] = requests_of(info, [Call.of("eth_chainId", [], "/rpc/v1")])
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /key/rpc/v1 HTTP/1.1"
    assert {"Host: node.example", "Authorization: Bearer abc", f"Content-Length: {len(body)}"} <= set(lines)
    with pytest.raises(BadTarget):
        parse_target("ftp://x")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"result":null}', None),
        (200, b'{"result":{"error":1}}', None),
        (200, b'{"error":{"code":-5}}', "error -5"),
        (500, b'{"error":{"code":1}}', "error 1"),
        (200, b"[]", "not JSON-RPC"),
        (200, b'{"error"', "not JSON-RPC"),
        (502, b"<html>", "HTTP 502"),
        (429, b'{"error":{"code":1}}', "HTTP 429"),
    ],
)
def test_a_fault_is_named_by_its_kind(status: int, body: bytes, kind: str | None) -> None:
    assert fault(status, body) == kind
