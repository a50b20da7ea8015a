"""Every raw exchange recorded with a real Lotus node that concerns what is served here comes out the same."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rpc.methods import register_all
from rpc.registry import REGISTRY, V0, V1, V2
from rpc.server.server import Server, serve
from tests.support.http_raw import RawClient, request
from tests.support.recorded import recorded
from tests.support.wire_chain import recorded_services

_VERSIONS = {"/rpc/v0": V0, "/rpc/v1": V1, "/rpc/v2": V2}
#: answers that tell of the node's own state or make: only their status or form can be the same
_OWN = {"livez", "readyz", "metrics", "discover"}
#: the fewest exchanges that must have been compared, HTTP and WebSocket: a test that compares none says so
_FEWEST_HTTP = 62
_FEWEST_WS = 12

#: how methods are answered that need a full node or a virtual machine: neither is here
_BY_A_NODE = ("executed", "forwarded")


def exchanges() -> list[dict[str, Any]]:
    return [json.loads(line) for line in recorded("wire.jsonl").read_text().splitlines()]


def calls_in(text: str) -> list[dict[str, Any]]:
    """The requests that a body holds, as far as it can be read."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text.strip())
    except ValueError:
        return []
    values = value if isinstance(value, list) else [value]
    return [{k.lower(): v for k, v in item.items()} for item in values if isinstance(item, dict)]


def served(path: str, text: str) -> bool:
    """Whether no request in a body is for a method of the node that is not served here, or only with a node."""
    from rpc.known import known_methods

    version = _VERSIONS.get(path, V1)
    names = [call.get("method") for call in calls_in(text)]
    declared = REGISTRY.names(version)
    return all(
        name not in known_methods()[version] or (name in declared and declared[name].answered not in _BY_A_NODE)
        for name in names
    )


def same_body(expected: str, got: str) -> bool:
    """Equal to the byte, but for the text of a parse error."""
    if expected == got:
        return True
    try:
        a, b = json.loads(expected), json.loads(got)
        if a["error"]["code"] != -32700:
            return False
        a["error"].pop("message"), b["error"].pop("message")
    except (ValueError, KeyError, TypeError):
        return False
    return bool(a == b)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    register_all()
    running = await serve(await recorded_services(recorded("devnet")), "127.0.0.1", 0)
    yield running
    await running.stop(1)


@pytest.mark.recorded
async def test_http_exchanges(server: Server) -> None:
    compared: list[str] = []
    left: list[str] = []
    wrong: list[str] = []
    client = await RawClient.connect(server.port)
    for exchange in exchanges():
        if "sent" in exchange or exchange["case"] in _OWN:
            continue
        case, body = exchange["case"], base64.b64decode(exchange["body_base64"])
        if not served(exchange["path"], exchange["body"]):
            left.append(case)
            continue
        await client.send(request(body, exchange["method"], exchange["path"], exchange["headers"]))
        answer = await asyncio.wait_for(client.answer(), 10)
        if answer.headers.get("connection") == "close":
            await client.close()
            client = await RawClient.connect(server.port)
        compared.append(case)
        text = answer.body.decode()
        if exchange["answer_length"] > len(exchange["answer"].encode()):
            text = text[: len(exchange["answer"])]
        wanted_type = exchange["answer_headers"].get("Content-Type")
        if (
            answer.status != exchange["status"]
            or answer.headers.get("content-type") != wanted_type
            or not same_body(exchange["answer"], text)
        ):
            wrong.append(f"{case}: {exchange['status']} {exchange['answer']!r} but {answer.status} {text!r}")
    await client.close()
    print(f"compared {len(compared)}: {', '.join(compared)}\nnot served here {len(left)}: {', '.join(left)}")
    assert not wrong, "\n".join(wrong)
    assert len(compared) >= _FEWEST_HTTP, left


@pytest.mark.recorded
async def test_websocket_exchanges(server: Server) -> None:
    compared: list[str] = []
    left: list[str] = []
    async with aiohttp.ClientSession() as session:
        for exchange in exchanges():
            if "sent" not in exchange:
                continue
            if not all(served("/rpc/v1", sent) for sent in exchange["sent"]):
                left.append(exchange["case"])
                continue
            got = await converse(session, server, exchange["sent"], len(exchange["received"]))
            compared.append(exchange["case"])
            assert sorted(map(made_up, got)) == sorted(map(made_up, exchange["received"])), exchange["case"]
            for number in (1, 2):  # a channel's frames keep their order
                mine = [f for f in got if channel_of(f) == number]
                assert mine == [f for f in exchange["received"] if channel_of(f) == number]
    print(f"compared {len(compared)}: {', '.join(compared)}\nnot served here {len(left)}: {', '.join(left)}")
    assert len(compared) >= _FEWEST_WS, left


def made_up(frame: str) -> str:
    """A frame without the random half of a subscription's id."""
    return re.sub(r'"0x[0-9a-f]{32}(0{32}")', r'"0x*\1', frame)


def channel_of(frame: str) -> int | None:
    value = json.loads(frame)
    if str(value.get("method", "")).startswith("xrpc.ch"):
        return int(value["params"][0])
    return None


async def converse(session: aiohttp.ClientSession, server: Server, sent: list[str], wanted: int) -> list[str]:
    """What comes back for these frames: `wanted` of them, and then none but the answer to a last call."""
    probe = '{"jsonrpc":"2.0","id":"probe","method":"Filecoin.StateNetworkName","params":[]}'
    got: list[str] = []
    async with session.ws_connect(server.url) as ws, asyncio.timeout(10):
        for at, frame in enumerate(sent):
            await ws.send_str(frame)
            if "ChainNotify" in frame and at + 1 < len(sent):
                # the recording let each subscription begin before it went on
                got += [(await ws.receive()).data, (await ws.receive()).data]
        while len(got) < wanted:
            got.append((await ws.receive()).data)
        await ws.send_str(probe)
        last = (await ws.receive()).data
    assert last == '{"id":"probe","jsonrpc":"2.0","result":"testing"}\n'
    return got
