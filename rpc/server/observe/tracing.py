"""Traces of calls by OpenTelemetry: one span a call, one for each source it reads from, one for each node it asks.

Imported only where tracing is on: the libraries are the extra `tracing`. Sampled are calls that continue a sampled
trace, and a share of the others. The rest cost a draw of lots.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context as ContextOfVariables
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rpc.observe.call_record import TRACE_PARENT
from rpc.server.metrics import Metrics
from rpc.server.observe.answered import Answered

#: spans that wait to be sent (more are dropped), how many are sent at once, and the seconds that sending may take
QUEUE: Final = 4096
_BATCH: Final = 512
_EXPORT_SECONDS: Final = 5.0
#: fields of a line of the log that OpenTelemetry has names for
_NAMES: Final = {
    "id": "rpc.jsonrpc.request_id",
    "method": "rpc.method",
    "client": "client.address",
    "status": "http.response.status_code",
    "path": "url.path",
    "bytes": "http.response.body.size",
    "code": "rpc.jsonrpc.error_code",
}
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_ROOT: Final = otel_context.Context()


class _Reads:
    """The reads of one call from one source."""

    __slots__ = ("began", "ended", "objects", "reads", "seconds")

    def __init__(self, began: float) -> None:
        self.began = self.ended = began
        self.reads = self.objects = 0
        self.seconds = 0.0


class TracedCall:
    """A call that is traced: `rpc.observe.call_record.CallSpans`."""

    __slots__ = ("_offset", "_reads", "_tracer", "span")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self.span = span
        self._reads: dict[str, _Reads] = {}
        #: from `perf_counter` to nanoseconds since 1970
        self._offset = time.time() - time.perf_counter()

    def note_read(self, source: str, began: float, objects: int) -> None:
        """See CallSpans."""
        reads = self._reads.get(source)
        if reads is None:
            reads = self._reads[source] = _Reads(began)
        reads.ended = time.perf_counter()
        reads.reads += 1
        reads.objects += objects
        reads.seconds += reads.ended - began

    @contextlib.contextmanager
    def node_call(self, node: str, method: str) -> Iterator[None]:
        """See CallSpans."""
        attributes = {"rpc.system": "jsonrpc", "rpc.method": method, "server.address": node}
        # not as an exception: its text may hold what a node has said
        with self._tracer.start_as_current_span(
            f"node {method}", kind=SpanKind.CLIENT, attributes=attributes, record_exception=False,
            set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def headers(self) -> Mapping[str, str]:
        """See CallSpans."""
        found: dict[str, str] = {}
        _PROPAGATOR.inject(found)
        return found

    def end(self, answered: Answered) -> None:
        """The call is answered: one span tells of all reads from a source."""
        context = trace.set_span_in_context(self.span, _ROOT)
        for source, reads in self._reads.items():
            span = self._tracer.start_span(
                f"read {source}",
                context,
                attributes={
                    "follower.source": source,
                    "follower.reads": reads.reads,
                    "follower.objects": reads.objects,
                    "follower.read_seconds": reads.seconds,
                },
                start_time=self._at(reads.began),
            )
            span.end(self._at(reads.ended))
        fields = answered.fields()
        self.span.set_attributes(
            {_NAMES.get(name, f"follower.{name}"): _attribute(name, value) for name, value in fields.items()}
        )
        if answered.code or answered.status >= 500:
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()

    def _at(self, seconds: float) -> int:
        return int((seconds + self._offset) * 1e9)


def _attribute(name: str, value: object) -> str | bool | int | float:
    # OpenTelemetry's convention: an id is a text
    if name == "id" or not isinstance(value, bool | int | float):
        return str(value)
    return value


class CountingExporter(SpanExporter):
    """Counts what is sent, and what could not be."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.exported = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class Tracing:
    """Makes the spans and sends them to `endpoint`, a URL for OTLP over HTTP. `share`: of calls that begin a trace."""

    def __init__(
        self, endpoint: str, share: float, resource: Mapping[str, str], *, chance: random.Random | None = None
    ) -> None:
        self._share = share
        self._chance = chance or random.Random()
        self.exporter = CountingExporter(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS))
        # who is sampled has been decided when a span begins, so all are
        self._provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self.exporter,
                max_queue_size=QUEUE,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=1000,
                export_timeout_millis=_EXPORT_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("lotus-follower")
        self.calls = 0

    def begin(self, name: str, variables: ContextOfVariables) -> TracedCall | None:
        """Begin the span of a call, current in `variables`; None where it is not sampled."""
        parent = trace.get_current_span()
        context: otel_context.Context | None = None
        if not parent.is_recording():
            header = TRACE_PARENT.get()
            context = _PROPAGATOR.extract({"traceparent": header}, _ROOT) if header else _ROOT
            given = trace.get_current_span(context).get_span_context()
            if given.is_valid:
                if not given.trace_flags.sampled:
                    return None
            elif self._chance.random() >= self._share:
                return None
        self.calls += 1
        attributes = {"rpc.system": "jsonrpc", "rpc.jsonrpc.version": "2.0"}
        span = self._tracer.start_span(name, context, kind=SpanKind.SERVER, attributes=attributes)
        variables.run(otel_context.attach, trace.set_span_in_context(span, _ROOT))
        return TracedCall(self._tracer, span)

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.counter("follower_trace_calls", "Calls, and batches, that are traced.", lambda: self.calls)
        metrics.labelled_counter(
            "follower_trace_spans",
            "Spans that were sent to the collector, and that could not be.",
            "outcome",
            lambda: {"sent": self.exporter.exported, "failed": self.exporter.failed},
        )

    def close(self, seconds: float) -> None:
        """Send what waits, for so many seconds at most. Blocks: call it in a thread. What is left is dropped."""
        # the library waits as long as its exporter does; a daemon's rest ends with the process
        closing = threading.Thread(target=self._provider.shutdown, name="tracing ends", daemon=True)
        closing.start()
        closing.join(seconds)
