"""The record of the call that is being answered, found by whatever runs on its behalf."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol

#: the source of an answer that was made here
LOCAL: Final = "local"
#: the source of a full node's answer that was kept
KEPT_OF_NODE: Final = "kept answer of a node"


class CallSpans(Protocol):
    """The spans of one call that is traced. `rpc/server/observe/tracing.py` has the real one."""

    def note_read(self, source: str, began: float, objects: int) -> None:
        """A read of a store or of another source has ended now. `began`: by `time.perf_counter`."""

    def node_call(self, node: str, method: str) -> contextlib.AbstractContextManager[object]:
        """A call is sent to a full node within the block."""

    def headers(self) -> Mapping[str, str]:
        """The headers that let another server continue the trace."""


class CallRecord:
    """One call. `source`: who made its answer: `LOCAL`, or the full node by host and port."""

    __slots__ = ("cache", "source", "spans")

    def __init__(self) -> None:
        self.source = LOCAL
        #: as `X-Cache` says; "" where the answer is not one that is kept
        self.cache = ""
        #: None where the call is not traced
        self.spans: CallSpans | None = None


#: the record of the current call; None where nobody observes
CURRENT_CALL: Final[ContextVar[CallRecord | None]] = ContextVar("current_call", default=None)
#: the `traceparent` of the current request, where this process traces and the sender is trusted; "" for none
TRACE_PARENT: Final[ContextVar[str]] = ContextVar("trace_parent", default="")
_NOTHING: Final[contextlib.AbstractContextManager[object]] = contextlib.nullcontext()
_NO_HEADERS: Final[Mapping[str, str]] = {}


def note_source(name: str) -> None:
    """Note who made the answer to the current call."""
    record = CURRENT_CALL.get()
    if record is not None:
        record.source = name


def current_spans() -> CallSpans | None:
    """The spans of the current call, if it is traced."""
    record = CURRENT_CALL.get()
    return None if record is None else record.spans


def node_call(node: str, method: str) -> contextlib.AbstractContextManager[object]:
    """Trace a call to a full node within the block, if the current call is traced."""
    spans = current_spans()
    return _NOTHING if spans is None else spans.node_call(node, method)


def trace_headers() -> Mapping[str, str]:
    """The headers for a request to another server that belongs to the current call.

    The trace of a call that is not sampled goes on with its flag 00, so that the node does not begin one of its own.
    Source: W3C Trace Context, level 1, section 3.3.
    """
    spans = current_spans()
    if spans is not None:
        return spans.headers()
    parent = TRACE_PARENT.get()
    return {"traceparent": parent} if parent else _NO_HEADERS
