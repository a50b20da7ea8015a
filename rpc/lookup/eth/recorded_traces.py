"""Traces that the bridge recorded: each tipset's `trace_block` answer, kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from chain.index.recorded_answers import TRACES, kept_answers
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError

#: what a block's trace has beside the trace itself
_PLACE: Final = frozenset({"blockHash", "blockNumber", "transactionHash", "transactionPosition"})


class TracesNotRecorded(Exception):
    """The traces of a tipset are not recorded."""

    def __init__(self, tipset: Tipset) -> None:
        super().__init__()
        self.tipset = tipset


async def read_traces(ctx: Context, tipsets: Sequence[Tipset]) -> list[bytes | None]:
    """The recorded traces of tipsets, JSON. The genesis has none to record: nothing was executed."""
    asked = [tipset for tipset in tipsets if tipset.height]
    found = iter(await kept_answers(ctx.store, [tipset.key.cid for tipset in asked], TRACES) if asked else ())
    return [next(found) if tipset.height else b"[]" for tipset in tipsets]


async def read_tipset_traces(ctx: Context, tipset: Tipset) -> bytes:
    """A tipset's traces as JSON, from the store alone. Errors: _Absent."""
    (found,) = await read_traces(ctx, [tipset])
    if found is None:
        raise TracesNotRecorded(tipset)
    return found


def traces_by_transaction(traces: Sequence[dict[str, Any]], hashes: Sequence[str]) -> list[dict[str, Any]]:
    """A block's traces by transaction. `hashes` are those of all: some have no trace. Errors: MethodError."""
    found: list[dict[str, Any]] = [
        {"output": "0x", "stateDiff": None, "trace": None, "transactionHash": one, "vmTrace": None} for one in hashes
    ]
    for trace in traces:
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
