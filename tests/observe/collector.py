"""A collector of traces: takes OTLP over HTTP, and decodes what comes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span:
    """One span: ids in hex, attributes as Python values."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.trace: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.began, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.is_error = span.status.code == 2
        self.text = str(span)
        self.resource = resource
        self.attributes = attributes(span.attributes)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector:
    """What has come. `is_mute`: it takes requests and answers none."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.is_mute = False
        self.url = ""
        self.headers: list[dict[str, str]] = []

    async def _take(self, request: BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if self.is_mute:
            await asyncio.Event().wait()
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        self.headers.append(dict(request.headers))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        for one in message.resource_spans:
            resource = attributes(one.resource.attributes)
            self.spans += [Span(span, resource) for scope in one.scope_spans for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    runner = web.ServerRunner(web.Server(found._take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()
