"""Clients' questions between followers, over real sockets: who gets them, and what a peer cannot do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from benches.chain_methods import services_over
from blockstore.lmdb.store import LmdbStore
from follower.ahead.asked_before import MOST_ENCODED, AskedBefore, Question
from follower.ahead.peer_questions import GivenQuestions, ask_peers, give_questions
from follower.ahead.start_ahead import StartAhead, start_ahead
from follower.object_tier.peers import PeerSource
from follower.settings import load_settings
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.server.server import serve
from tests.support.bridge.imported import lmdb_of_devnet
from tests.tier.test_peers import SECRET, serving, status
from tests.tier.test_start_ahead import Far

ALLOWED = {"Authorization": f"Bearer {SECRET}"}
#: seconds that no machine needs
LONG = 60.0


def call(method: str, *params: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})


@contextlib.asynccontextmanager
async def peers(*pages: Callable[[web.BaseRequest], Any]) -> AsyncIterator[list[PeerSource]]:
    """Peers whose servers answer so."""
    runners, found = [], []
    for page in pages:
        runner = web.ServerRunner(web.Server(page), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(PeerSource(f"http://127.0.0.1:{runner.addresses[0][1]}", SECRET))
    try:
        yield found
    finally:
        for one in found:
            await one.close()
        for runner in runners:
            await runner.cleanup()


def saying(body: bytes, status: int = 200) -> Callable[[web.BaseRequest], Any]:
    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.path == "/asked"
        return web.Response(status=status, body=body)

    return answer


async def never(_: web.BaseRequest) -> web.Response:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def test_questions_go_to_those_who_know_the_secret(tmp_path: Path) -> None:
    AskedBefore(tmp_path).save([(1, call("b")), (0, call("c"))])
    async with serving() as server:
        given = GivenQuestions(lambda most: [(1, call("a")), (1, call("b"))][:most], tmp_path, SECRET)
        given.serve_on(server)
        url = f"http://127.0.0.1:{server.port}"
        assert await status(f"{url}/asked") == 401
        assert await status(f"{url}/asked", Authorization="Bearer other") == 401
        async with aiohttp.ClientSession(headers=ALLOWED) as session:
            async with session.get(f"{url}/asked") as response:
                assert response.headers["Cache-Control"] == "no-store"
            async with session.post(f"{url}/asked") as response:
                assert response.status == 405
        # this process' own come before those of the machine's file
        source, wrong = PeerSource(url, SECRET), PeerSource(url, "not the secret of this one")
        assert await ask_peers([source], LONG) == [(1, call("a")), (1, call("b")), (0, call("c"))]
        assert await ask_peers([wrong], LONG) == []
        assert given.given == 6
        await source.close()
        await wrong.close()


async def test_without_a_secret_nobody_gets_questions(tmp_path: Path) -> None:
    async with serving() as server:
        give_questions(load_settings(environment={}, flags={}), server)
        assert await status(f"http://127.0.0.1:{server.port}/asked", **ALLOWED) == 404
        (tmp_path / "secret").write_text(SECRET)
        give_questions(
            load_settings(environment={}, flags={"object_peer_secret_file": str(tmp_path / "secret")}), server
        )
        assert await status(f"http://127.0.0.1:{server.port}/asked") == 401
        assert await status(f"http://127.0.0.1:{server.port}/asked", **ALLOWED) == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"[[1", b'{"a":1}', b'"text"', b"[" * 100_000, b"\xff\xfe", b" " * MOST_ENCODED + b"[]",
     orjson.dumps([1, None, [], [1], [1, 2], ["1", "{}"], [True, "{}"], [3, "{}"], [-1, "{}"], [1e300, "{}"],
                   [1, ["{}"]], [1, "x" * 5000], {"1": "{}"}])],
    ids=["empty", "cut", "object", "text", "deep", "bytes", "large", "other items"],
)  # fmt: skip
async def test_what_a_peer_sends_is_not_believed(sent: bytes) -> None:
    good: list[Question] = [(1, call("a"))]
    async with peers(saying(sent), saying(orjson.dumps([[1, call("a").decode()]]))) as some:
        assert await ask_peers(some[:1], LONG) == []
        assert await ask_peers(some, LONG) == good


async def test_older_slow_and_dead_peers_are_left_out() -> None:
    body = orjson.dumps([[1, call("a").decode()], [1, call("b").decode()]])
    other = orjson.dumps([[1, call("c").decode()], [1, call("b").decode()]])
    async with peers(saying(b"404 page not found\n", 404), never, saying(body), saying(other)) as some:
        gone = PeerSource("http://127.0.0.1:1", SECRET)
        found = await ask_peers([gone, *some], 2.0)
        assert sorted(found) == [(1, call(name)) for name in "abc"]
        # the newest of each come first
        assert found[-1] == (1, call("b"))
        assert await ask_peers([], LONG) == []
        await gone.close()


async def test_of_many_peers_three_answer_and_no_more_than_the_bounds_are_taken() -> None:
    texts = [call("x" * 900 + str(at)).decode() for at in range(2000)]
    each = [saying(orjson.dumps([[1, text] for text in texts[at::3]])) for at in range(3)]
    async with peers(*each, never) as some:
        async with asyncio.timeout(LONG):
            found = await ask_peers(some, 2 * LONG)
    assert len(set(found)) == len(found)
    assert (1 << 20) - 1100 < sum(len(body) for _, body in found) <= 1 << 20


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    register_all()
    return lmdb_of_devnet(tmp_path_factory.mktemp("peers") / "store")


@contextlib.asynccontextmanager
async def machine(path: Path, **limits: Any) -> AsyncIterator[tuple[Far, Dispatcher]]:
    """(store, dispatcher) of a follower that has read nothing yet."""
    store = await LmdbStore.open(path)
    far = Far(store)
    services = await services_over(far)  # type: ignore[arg-type]
    settings = ServerSettings(answer_cache_bytes=64 << 20, **limits)
    yield far, Dispatcher(services, settings=settings)
    await store.close()


@pytest.mark.recorded
async def test_a_new_machine_asks_itself_what_clients_asked_its_peer(devnet: Path, tmp_path: Path) -> None:
    wanted = [call("eth_getBlockByNumber", "0x187", True), call("Filecoin.StateGetActor", "f01085", []),
              call("eth_getLogs", {"fromBlock": "0x402", "toBlock": "0x452"})]  # fmt: skip
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    async with machine(devnet) as (_, dispatcher):
        server = await serve(dispatcher.services, "127.0.0.1", 0, dispatcher=dispatcher)
        give_questions(load_settings(environment={}, flags={"object_peer_secret_file": str(secret)}), server)
        async with aiohttp.ClientSession() as session:
            expected = []
            for body in wanted:
                async with session.post(f"http://127.0.0.1:{server.port}/rpc/v1", data=body) as response:
                    expected.append(await response.read())
        source = PeerSource(f"http://127.0.0.1:{server.port}", SECRET)
        # clients without a token may not even read
        async with machine(devnet, default_permissions=frozenset()) as (far, new):
            async with contextlib.AsyncExitStack() as closing:
                await start_ahead(new, LONG, tmp_path / "none", closing, 0, [source])
            text = new.metrics.text().decode()
            assert 'follower_start_ahead_questions_total{of="peers"} 3.0' in text
            assert 'follower_start_ahead_questions_total{of="own"} 0.0' in text
            far.reads.clear()
            for body, answer in zip(wanted, expected, strict=True):
                ctx = new.context(1, frozenset(("read",)))
                assert (await new.http(1, body, ctx))[1] == answer
                ctx.release()
            assert not far.reads
        await source.close()
        await server.stop(0)


@pytest.mark.recorded
async def test_a_peer_makes_a_new_machine_do_nothing_but_read(devnet: Path) -> None:
    refused = [call("Filecoin.StateListActors", []), call("eth_newBlockFilter"), call("eth_call", {}, "latest"),
               call("Filecoin.MpoolPush", {}), call("eth_subscribe", "newHeads"), call("no.such.method"),
               b"[" + call("Filecoin.ChainHead") + b"]", b"nothing", b'{"method":["Filecoin.ChainHead"]}',
               b'{"method":{}}', b"[" * 4000]  # fmt: skip
    asked = [call("eth_getBlockByNumber", "0x187", True), call("eth_getBalance", "wrong", 1, 2, 3)]
    sent = orjson.dumps([[1, body.decode()] for body in (*refused, *asked)])
    async with peers(saying(sent)) as some, machine(devnet) as (_, dispatcher):
        ahead = StartAhead(dispatcher, 0, some)
        met: list[bytes] = []
        http = dispatcher.answer_http

        async def noting(version: int, body: bytes, *more: Any) -> Any:
            met.append(body)
            return await http(version, body, *more)

        dispatcher.answer_http = noting
        await ahead.run(LONG, [(1, asked[0])])
        assert sorted(met[:2]) == sorted(asked)
        assert not {*met} & {*refused}
        assert ahead.asked == {"own": 1, "peers": 1}
