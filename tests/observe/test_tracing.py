"""Traces, as a collector gets them: real spans by the real exporter, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from devnode.replay import start_replay
from follower.tracing.open import spans_url
from follower.tracing.reads import note_store_reads
from loadbalancer.fleet import Member
from rpc.server.observe import tracing as tracing_module
from rpc.server.observe.trace_parent import TracedHttpProtocol
from rpc.server.observe.tracing import QUEUE, Tracing
from rpc.server.server import serve
from tests.fleet.test_loadbalancer import proxied
from tests.forwarding.nodes import MESSAGE, fleet
from tests.observe.collector import Collector, collector
from tests.observe.test_hidden_secrets import wait_for_head
from tests.support.http_raw import post
from tests.support.paths import ROOT
from tests.support.processes import follower_process, free_port
from tests.support.proxies import KINDS
from tests.support.recorded import recorded
from tests.support.wire_server import ECHO, Node, call, node, soon

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}


@contextlib.asynccontextmanager
async def traced(share: float = 0.0, **changes: Any) -> AsyncIterator[tuple[Node, Tracing, Collector]]:
    async with collector() as found, node(**changes) as one:
        tracing = Tracing(f"{found.url}/v1/traces", share, {"service.name": "lotus-follower"})
        one.server.trace(tracing)
        try:
            yield one, tracing, found
        finally:
            await asyncio.to_thread(tracing.close, 20)


async def flushed(tracing: Tracing, found: Collector, count: int) -> None:
    """Wait until so many spans have come. A span ends a moment after the answer has left."""
    async with asyncio.timeout(60):
        while len(found.spans) < count:
            await asyncio.to_thread(tracing._provider.force_flush)
    assert len(found.spans) == count


async def test_a_call_is_a_span_that_continues_the_balancers_trace() -> None:
    async with traced() as (one, tracing, found):
        await soon(post(one.port, call("Test.Head", id=7), headers=PARENT))
        # the same head again, as a balancer's retry: it is known, and not read again
        await soon(post(one.port, call("Test.NullRound", id=8), headers=PARENT))
        await flushed(tracing, found, 2)
        head, null = sorted(found.spans, key=lambda span: span.began)
        assert (head.name, head.trace, head.parent) == ("Test.Head", TRACE, "b7ad6b7169203331")
        assert head.attributes["rpc.jsonrpc.request_id"] == "7"
        assert head.attributes["follower.height"] == 1108
        assert head.attributes["follower.source"] == "local"
        assert head.attributes["client.address"] == "127.0.0.1"
        assert head.resource["service.name"] == "lotus-follower"
        assert head.ended > head.began
        assert not head.is_error
        assert (null.trace, null.is_error, null.attributes["rpc.jsonrpc.error_code"]) == (TRACE, True, 12)


async def test_the_calls_of_a_batch_are_below_its_span() -> None:
    async with traced() as (one, tracing, found):
        await soon(post(one.port, b"[%b,%b]" % (ECHO % (1, 1), call("Test.Nope", id=2)), headers=PARENT))
        await flushed(tracing, found, 3)
        (batch,) = found.named("batch")
        assert (batch.trace, batch.parent) == (TRACE, "b7ad6b7169203331")
        assert [span.parent for span in found.named("Test.Echo") + found.named("unknown")] == [batch.id, batch.id]


async def test_a_websockets_calls_continue_the_trace_of_its_opening() -> None:
    async with traced() as (one, tracing, found), aiohttp.ClientSession() as http:
        async with http.ws_connect(one.server.url, headers=PARENT) as ws:
            for number in range(2):
                await ws.send_bytes(ECHO % (number, 1))
                await soon(ws.receive())
        await flushed(tracing, found, 2)
        assert {(span.trace, span.parent) for span in found.spans} == {(TRACE, "b7ad6b7169203331")}
        assert len({span.id for span in found.spans}) == 2


async def test_who_is_sampled() -> None:
    async with traced(share=0.0) as (one, tracing, _):
        for headers in (
            {},
            UNSAMPLED,
            {"traceparent": "00-zz-01"},
            {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        ):
            await soon(post(one.port, ECHO % (1, 1), headers=headers))
        assert tracing.calls == 0
        await soon(post(one.port, ECHO % (1, 1), headers=PARENT))
        assert tracing.calls == 1
    async with traced(share=1.0) as (one, tracing, _):
        await soon(post(one.port, ECHO % (1, 1)))
        assert tracing.calls == 1
        await soon(post(one.port, ECHO % (1, 1), headers=UNSAMPLED))
        assert tracing.calls == 1, "whoever began the trace has decided"


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ({}, None),
        (UNSAMPLED, UNSAMPLED["traceparent"]),
        ({"traceparent": f"00-{'0' * 32}-{'0' * 16}-00"}, None),
    ],
)
async def test_a_trace_that_is_not_sampled_goes_on_to_the_node_as_it_is(
    given: dict[str, str], passed_on: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str | None] = []
    taken = TracedHttpProtocol._run

    async with fleet(count=1) as nodes, contextlib.AsyncExitStack() as stack:
        ours, theirs = (Tracing("http://127.0.0.1:9/v1/traces", 0, {}) for _ in range(2))
        server = await serve(nodes.dispatcher.services, "127.0.0.1", 0, dispatcher=nodes.dispatcher)
        stack.push_async_callback(server.stop, 0)
        server.trace(ours)
        assert nodes.nodes[0]._server is not None
        nodes.nodes[0]._server.trace(theirs)
        node_port = int(nodes.nodes[0].base.rpartition(":")[2])

        def hear(self: TracedHttpProtocol, *args: Any) -> None:
            if b"StateCall" in args[2] and self.transport.get_extra_info("sockname")[1] == node_port:
                heard.append(self._parent or None)
            taken(self, *args)

        monkeypatch.setattr(TracedHttpProtocol, "_run", hear)
        body = call("Filecoin.StateCall", {**MESSAGE, "Nonce": 1}, [])
        answer = await soon(post(server.port, body, headers=given))
        assert b'"result"' in answer.body
        assert (ours.calls, theirs.calls) == (0, 0)
    assert heard == [passed_on]


async def test_a_strangers_trace_is_not_continued() -> None:
    async with traced(trusted_proxies=("10.0.0.0/8",)) as (one, tracing, _), aiohttp.ClientSession() as http:
        await soon(post(one.port, ECHO % (1, 1), headers=PARENT))
        async with http.ws_connect(one.server.url, headers=PARENT) as ws:
            await ws.send_bytes(ECHO % (1, 1))
            await soon(ws.receive())
        assert tracing.calls == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_trace_goes_through_a_balancer_and_the_follower_to_the_node(kind: str) -> None:
    async with collector() as found, fleet(count=1) as nodes, contextlib.AsyncExitStack() as stack:
        ours, theirs = (Tracing(f"{found.url}/v1/traces", 0, {"service.name": name}) for name in ("follower", "node"))
        services = nodes.dispatcher.services
        note_store_reads(services.store)
        server = await serve(services, "127.0.0.1", 0, dispatcher=nodes.dispatcher)
        stack.push_async_callback(server.stop, 0)
        server.trace(ours)
        assert nodes.nodes[0]._server is not None
        nodes.nodes[0]._server.trace(theirs)
        proxy = await stack.enter_async_context(proxied(kind, Member(f"127.0.0.1:{server.port}")))
        body = call("Filecoin.StateCall", {**MESSAGE, "Nonce": 1}, [])
        async with aiohttp.ClientSession() as http, http.post(proxy.url, data=body, headers=PARENT) as answer:
            assert "result" in await answer.json(content_type=None)
        await asyncio.to_thread(ours.close, 20)
        await asyncio.to_thread(theirs.close, 20)
    (mine,) = [span for span in found.named("Filecoin.StateCall") if span.resource["service.name"] == "follower"]
    assert (mine.trace, mine.parent) == (TRACE, "b7ad6b7169203331")
    (sent,) = found.named("node Filecoin.StateCall")
    assert (sent.trace, sent.parent) == (TRACE, mine.id)
    (taken,) = [span for span in found.named("Filecoin.StateCall") if span.resource["service.name"] == "node"]
    assert (taken.trace, taken.parent) == (TRACE, sent.id)
    assert mine.attributes["follower.source"] == sent.attributes["server.address"] == nodes.route.nodes[0].name


async def test_a_process_traces_its_reads_and_sends_what_waits_when_it_stops(tmp_path: Path) -> None:
    played = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    port, key = free_port(), "k3y-of-the-collector"
    async with collector() as found:
        arguments = [
            "up", "--store", f"lmdb://{tmp_path}/store", "--state", "lazy", "--node", played.base,
            "--network-file", str(recorded("devnet/network.json")), "--listen", f"127.0.0.1:{port}",
            "--tracing-endpoint", found.url.replace("//", "//me:S3cretOfMine@"), "--tracing-sample", "0",
        ]  # fmt: skip
        environment = {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key={key}"}
        with follower_process(*arguments, environment=environment) as running:
            async with aiohttp.ClientSession() as http, asyncio.timeout(150):
                await wait_for_head(http, port)
                body = orjson.dumps(
                    {"jsonrpc": "2.0", "id": 1, "method": "Filecoin.StateGetActor", "params": ["f04", []]}
                )
                async with http.post(f"http://127.0.0.1:{port}/rpc/v1", data=body, headers=PARENT) as answer:
                    assert '"result"' in await answer.text()
                assert await asyncio.to_thread(running.stop) == 0
        await played.stop()
        assert {"read store", f"read objects of {played.base.rpartition('/')[2]}"} <= {
            span.name for span in found.spans
        }
        (asked,) = found.named("Filecoin.StateGetActor")
        reads = [span for span in found.spans if span.name.startswith("read ")]
        assert {(span.trace, span.parent) for span in reads} == {(TRACE, asked.id)}
        (store,) = found.named("read store")
        assert store.attributes["follower.reads"] >= 1
        assert store.attributes["follower.read_seconds"] > 0
        (objects,) = [span for span in reads if span.name.startswith("read objects")]
        assert objects.attributes["follower.objects"] >= 1
        assert len(reads) == 2, "one span for each source, however many objects"
        assert found.headers[0]["api-key"] == key
        assert not [text for text in (running.output(), *(span.text for span in found.spans)) if "S3cretOfMine" in text]


@pytest.mark.parametrize("is_mute", [False, True])
async def test_a_collector_that_is_down_delays_no_answer_and_no_end(
    is_mute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing_module, "_EXPORT_SECONDS", 3600.0)
    async with collector() as found, node() as one:
        found.is_mute = is_mute
        url = f"{found.url}/v1/traces" if is_mute else f"http://127.0.0.1:{free_port()}/v1/traces"
        tracing = Tracing(url, 1.0, {})
        one.server.trace(tracing)
        async with asyncio.timeout(120):
            for number in range(600):
                answer = await post(one.port, ECHO % (number, number))
                assert answer.status == 200
        assert tracing.calls == 600
        # the exporter would wait for an hour, or try again for a minute
        ended = threading.Event()
        threading.Thread(target=lambda: (tracing.close(0.1), ended.set()), daemon=True).start()
        assert await asyncio.to_thread(ended.wait, 30)
        assert tracing.exporter.exported == 0


def test_the_spans_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextvars

    from rpc.server.observe.answered import Answered

    tracing = Tracing(f"http://127.0.0.1:{free_port()}/v1/traces", 1.0, {})
    blocked = threading.Event()
    monkeypatch.setattr(tracing.exporter, "export", lambda spans: blocked.wait())
    for _ in range(QUEUE + 2000):
        traced_call = tracing.begin("Test.Echo", contextvars.copy_context())
        assert traced_call is not None
        traced_call.end(Answered(1))
    waiting = tracing._provider._active_span_processor._span_processors[0]._batch_processor._queue  # type: ignore[attr-defined]
    assert len(waiting) <= QUEUE
    blocked.set()
    tracing.close(0.1)


def test_nothing_is_imported_where_nothing_is_traced() -> None:
    code = "import sys, follower.worker; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_the_path_of_otlp_is_added() -> None:
    assert spans_url("http://collector:4318") == "http://collector:4318/v1/traces"
    assert spans_url("https://api.example/otlp/traces?x=1") == "https://api.example/otlp/traces?x=1"
