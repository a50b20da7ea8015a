"""Traces that the bridge recorded: each tipset's `trace_block` answer, kept beside it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson

from chain.errors import NotHeld
from chain.index.recorded_answers import TRACES, kept_answers
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError, Unavailable
from rpc.lookup.eth.executed_traces import execute_traces

#: bytes of JSON that are parsed between two checkpoints
_PART_BYTES: Final = 256 << 10
_FIRST_KEY: Final = re.compile(rb'\[\{("[A-Za-z]+":)')
#: what a block's trace has beside the trace itself
_PLACE: Final = frozenset({"blockHash", "blockNumber", "transactionHash", "transactionPosition"})


class TracesNotRecorded(Exception):
    """The traces of a tipset are not recorded. The text says why they were not made here, where that was tried."""

    def __init__(self, tipset: Tipset, why: object = "") -> None:
        super().__init__(str(why))
        self.tipset = tipset


async def read_traces(ctx: Context, tipsets: Sequence[Tipset]) -> list[bytes | TracesNotRecorded]:
    """The traces of tipsets, JSON: recorded ones, else made by execution, else why there are none.

    The genesis has none: nothing was executed.
    """
    asked = [tipset for tipset in tipsets if tipset.height]
    found = iter(await kept_answers(ctx.store, [tipset.key.cid for tipset in asked], TRACES) if asked else ())
    traces: list[bytes | TracesNotRecorded] = []
    for tipset in tipsets:
        recorded = next(found) if tipset.height else b"[]"
        traces.append(await _execute(ctx, tipset) if recorded is None else recorded)
    return traces


async def _execute(ctx: Context, tipset: Tipset) -> bytes | TracesNotRecorded:
    """The traces of a tipset, made here."""
    if ctx.executor is None:
        return TracesNotRecorded(tipset)
    try:
        return await execute_traces(ctx, ctx.executor, tipset)
    except (NotHeld, Unavailable) as error:
        return TracesNotRecorded(tipset, error)


async def read_tipset_traces(ctx: Context, tipset: Tipset) -> bytes:
    """A tipset's traces as JSON, without a full node. Errors: TracesNotRecorded."""
    (found,) = await read_traces(ctx, [tipset])
    if isinstance(found, TracesNotRecorded):
        raise found
    return found


async def iterate_traces(ctx: Context, recorded: bytes) -> AsyncIterator[dict[str, Any]]:
    """The traces of recorded JSON one by one. A long answer is parsed in parts, with a checkpoint at each."""
    for part in _parts(recorded):
        await ctx.checkpoint()
        for trace in orjson.loads(part) or ():
            yield trace


def _parts(recorded: bytes) -> list[bytes]:
    """A JSON array of objects as several arrays of about `_PART_BYTES`."""
    begin = _FIRST_KEY.match(recorded)
    if len(recorded) <= _PART_BYTES or begin is None:
        return [recorded]
    # objects within a trace stand behind a key, never behind a comma: the border is one of two traces
    border = b"},{" + begin[1]
    parts: list[bytes] = []
    start = 1
    while start < len(recorded):
        end = recorded.find(border, start + _PART_BYTES)
        if end < 0:
            parts.append(b"[" + recorded[start:])
            break
        parts.append(b"[" + recorded[start : end + 1] + b"]")
        start = end + 2
    return parts


async def traces_by_transaction(
    ctx: Context, traces: AsyncIterator[dict[str, Any]], hashes: Sequence[str]
) -> list[dict[str, Any]]:
    """A block's traces by transaction. `hashes` are those of all: some have no trace. Errors: MethodError."""
    found: list[dict[str, Any]] = [
        {"output": "0x", "stateDiff": None, "trace": None, "transactionHash": one, "vmTrace": None} for one in hashes
    ]
    async for trace in traces:
        await ctx.checkpoint()
        at = trace["transactionPosition"]
        if not 0 <= at < len(found) or found[at]["transactionHash"] != trace["transactionHash"]:
            raise MethodError("the recorded traces are not of this block's transactions")
        entry = found[at]
        if entry["trace"] is None:
            entry["trace"] = []
            result = trace.get("result") or {}
            entry["output"] = result.get("output", result.get("code", "0x"))
        entry["trace"].append({name: value for name, value in trace.items() if name not in _PLACE})
    return found
