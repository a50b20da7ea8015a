"""What the status page is told: the parts of the report, who may see it, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from blockstore.bridge_rows import BridgeRow, LoggedError, NodeStanding, delete_bridge, put_bridge, read_bridges
from blockstore.memory import MemoryStore
from blockstore.store import FLEET, Batch, HeadEntry, TipsetRef
from follower.logs.recent_errors import RecentErrors
from follower.readiness import Freshness, build_checks
from follower.settings import load_settings
from follower.status_page.figures import MethodRates, quantile
from follower.status_page.fleet import BEHIND, NOT_READY, READY, read_readyz
from follower.status_page.open import open_status_page
from follower.status_page.report import StatusReport
from follower.status_page.timeline import HeadTimeline
from rpc.server.auth import make_token
from rpc.server.limits import ServerSettings
from rpc.server.metrics import BOUNDS, MethodStats
from rpc.server.server import Server, serve
from tests.fleet.fleet_processes import small_store
from tests.support.served import services_over

TOKEN_SECRET = b"a secret that is thirty-two bytes or more"


@contextlib.asynccontextmanager
async def page_of(folder: Path, mode: str) -> AsyncIterator[tuple[Server, StatusReport | None]]:
    """A server over a small store, with its status page."""
    store = await small_store(folder)
    services = await services_over(store)
    heads = services.head_source
    services.checks = build_checks(heads, None, Freshness(5, 0, 30))  # type: ignore[arg-type]
    server = await serve(services, "127.0.0.1", 0, settings=ServerSettings(jwt_secret=TOKEN_SECRET))
    settings = load_settings(None, {}, {"status_page": mode}, "serve")
    report = open_status_page(settings, server, heads, None, RecentErrors(), "")  # type: ignore[arg-type]
    try:
        yield server, report
    finally:
        if report is not None:
            await report.close()
        await server.stop(0)
        await store.close()


async def status_of(server: Server, path: str = "/status.json", **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{server.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=named) as answer:
        return answer.status, await answer.text()


def bearer(*allow: str) -> str:
    return f"Bearer {make_token(TOKEN_SECRET, allow)}"


@pytest.mark.parametrize(
    ("mode", "headers", "wanted"),
    [
        ("private", {}, 200),
        ("private", {"X_Forwarded_For": "10.1.2.3"}, 200),
        ("private", {"X_Forwarded_For": "8.8.8.8"}, 401),
        ("private", {"X_Forwarded_For": "10.1.2.3, 8.8.8.8"}, 401),
        ("private", {"X_Forwarded_For": "8.8.8.8", "Authorization": bearer("admin")}, 200),
        ("private", {"Host": "evil.example"}, 403),
        ("token", {}, 401),
        ("token", {"Authorization": bearer("read", "write")}, 401),
        ("token", {"Authorization": "Bearer nonsense"}, 401),
        ("token", {"Authorization": bearer("read", "admin")}, 200),
        ("open", {"X_Forwarded_For": "8.8.8.8", "Host": "evil.example"}, 200),
        ("off", {}, 404),
    ],
)
async def test_who_may_see_it(tmp_path: Path, mode: str, headers: dict[str, str], wanted: int) -> None:
    async with page_of(tmp_path / "store", mode) as (server, _):
        status, text = await status_of(server, **headers)
        assert status == wanted, text
        assert (await status_of(server, "/"))[0] == (404 if mode == "off" else 200)
        if wanted != 200:
            assert "timeline" not in text


async def test_every_viewer_gets_the_report_of_the_same_second(tmp_path: Path) -> None:
    async with page_of(tmp_path / "store", "open") as (server, report):
        assert report is not None
        made = 0
        make = report.report

        async def counted():  # type: ignore[no-untyped-def]
            nonlocal made
            made += 1
            return await make()

        report.report = counted  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(10):
            texts = await asyncio.gather(*(report.text() for _ in range(200)))
        assert made <= 2 + (loop.time() - began)
        assert b'"height":0' in texts[0]
        assert (await status_of(server))[0] == 200


async def test_the_ready_check_of_a_real_follower_is_understood(tmp_path: Path) -> None:
    async with page_of(tmp_path / "store", "open") as (server, _):
        status, text = await status_of(server, "/readyz?verbose")
        assert status == 200
        standing = read_readyz(text)
        assert (standing.state, standing.height, standing.seq) == (READY, 0, 1)
        server.drain()
        assert read_readyz((await status_of(server, "/readyz?verbose"))[1]).state == "draining"


def test_ready_checks() -> None:
    assert read_readyz("[+] head: head 7, entry 9\n[!] age: the head is 900 s old\n").state == BEHIND
    broken = read_readyz("[!] head: the store does not answer\n[!] age: old\nreadyz check failed\n")
    assert (broken.state, broken.height) == (NOT_READY, None)
    assert "the store does not answer" in broken.reason


def ref(height: int, branch: int = 0) -> TipsetRef:
    cid = bytes.fromhex("0171a0e40220") + bytes((height, branch)) * 16
    return TipsetRef(height, cid * (1 + branch))


async def test_timeline_draws_a_reorg() -> None:
    store = MemoryStore()
    term = await store.new_term("test")
    changes = [
        ((), (ref(1), ref(2))),
        ((), (ref(3),)),
        ((ref(3), ref(2)), (ref(2, 1), ref(4, 1))),
        ((), (ref(5),)),
    ]
    for seq, (reverts, applies) in enumerate(changes, 1):
        await store.append_head(HeadEntry(seq, term, reverts, applies, applies[-1]))
    timeline = HeadTimeline(store)
    await timeline.read(2)
    await timeline.read(4)
    told = timeline.report()
    rows = [(one["height"], one["blocks"], one["parent"], one["on_chain"]) for one in told["tipsets"]]
    assert rows == [
        (1, 1, None, True),
        (2, 1, 0, False),
        (3, 1, 1, False),
        (2, 2, 0, True),
        (4, 2, 3, True),
        (5, 1, 4, True),
    ]
    assert told["reorgs"] == [{"seq": 3, "depth": 2, "height": 2}]
    # a log that went back is read anew
    await timeline.read(1)
    assert [one["height"] for one in timeline.report()["tipsets"]] == [1, 2]


def test_quantiles_and_rates() -> None:
    assert quantile([0] * 16, 0.99) is None
    buckets = [0] * 16
    buckets[5] = 100
    assert quantile(buckets, 0.99) == pytest.approx(BOUNDS[4] + 0.99 * (BOUNDS[5] - BOUNDS[4]))
    assert quantile([0] * 15 + [3], 0.99) == BOUNDS[-1]

    now = 100.0
    stats = MethodStats("Filecoin.ChainHead")
    rates = MethodRates(lambda: [stats], clock=lambda: now)
    for second in range(1, 31):
        stats.codes[0] = 5 * second
        stats.codes[-1] = second
        stats.buckets[3] = 6 * second
        now = 100.0 + second
        told = rates.look()
        assert told["methods"][0]["per_second"] == pytest.approx(6)
        assert told["errors_per_second"] == pytest.approx(1)
    assert 10 <= told["seconds"] <= 12
    now += 60
    rates.look()
    now += 11
    assert rates.look()["per_second"] == 0


def test_recent_errors_are_bounded_and_hide_secrets() -> None:
    kept = RecentErrors()
    logger = logging.getLogger("test.recent")
    logger.addHandler(kept)
    try:
        for _ in range(3):
            logger.warning("node http://user:pass@host:1/x?token=abc: Bearer xyz eyJhbGciOi.eyJzdWIiOi.sig")
        for number in range(100):
            logger.error("fault %d %s", number, "x" * 5000)
        logger.info("nothing")
    finally:
        logger.removeHandler(kept)
    lines = kept.lines()
    assert len(lines) <= 30
    assert max(len(one.text) for one in lines) <= 300
    kept = RecentErrors()
    kept.handle(
        logging.makeLogRecord({"levelno": 30, "levelname": "WARNING", "msg": "http://u:p@h?token=abc eyJa.eyJb.c"})
    )
    kept.handle(
        logging.makeLogRecord({"levelno": 30, "levelname": "WARNING", "msg": "http://u:p@h?token=abc eyJa.eyJb.c"})
    )
    (line,) = kept.lines()
    assert (line.text, line.count) == ("http://…@h?token=… …", 2)


async def test_rows_of_bridges() -> None:
    store = MemoryStore()
    nodes = tuple(NodeStanding(f"node{number}:1234", "usable") for number in range(40))
    errors = tuple(LoggedError(number, "error", "x" * 1000) for number in range(40))
    batch = Batch()
    put_bridge(batch, BridgeRow("one", True, 3, 70, 71, "lazy", 5, "", nodes, errors, 8, 9))
    put_bridge(batch, BridgeRow("two", False))
    batch.put(FLEET, b"bridges", b"bad", b"{")
    batch.put(FLEET, b"bridges", b"worse", b'{"name":"other"}')
    await store.write(batch)
    one, two = await read_bridges(store)
    assert (one.name, one.leads, one.term, one.height, one.policy) == ("one", True, 3, 70, "lazy")
    assert one.nodes == nodes[:16]
    assert [error.at for error in one.errors] == [35, 36, 37, 38, 39]
    assert not two.leads
    batch = Batch()
    delete_bridge(batch, "one")
    await store.write(batch)
    assert [row.name for row in await read_bridges(store)] == ["two"]
