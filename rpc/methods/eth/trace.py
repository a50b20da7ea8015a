"""Traces, from what the bridge recorded: each tipset's `trace_block` answer, kept beside it.

The other three methods are made of it: a transaction's traces are those with its hash, a replayed block is the
same traces by transaction, and a filter looks through the blocks of a range. What is not recorded is asked of the
full node where there is one. Source: Lotus `node/impl/eth/trace.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from chain.errors import BadRequest, NotHeld
from chain.index.coverage import covered, ranges_text
from chain.index.eth_rows import ETH_TXS_INDEX
from chain.index.recorded_answers import TRACES_INDEX
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import Context
from rpc.errors import LimitExceeded, MethodError, Unavailable, limit_data
from rpc.lookup.eth.block_parameter import EARLIEST, LATEST, PENDING, block_hash, select_number, select_text
from rpc.lookup.eth.recorded_traces import (
    TracesNotRecorded,
    iterate_traces,
    read_tipset_traces,
    read_traces,
    traces_by_transaction,
)
from rpc.lookup.eth.trace_filter import TRACE_COUNT, TraceFilter, TraceFilterParam
from rpc.lookup.eth.transaction_tipset import transaction_tipset
from rpc.lookup.eth.transactions import tx_hashes
from rpc.lookup.forward import forward
from rpc.lookup.message_search import Miss
from rpc.lookup.tipset_inclusion import included_in
from rpc.params import EthHash, param_of
from rpc.registry import EVERY_VERSION, Cache, Cost, method

#: results of a filter, and epochs that it may span, as a node has them by default
MAX_RESULTS: Final = 500
MAX_RANGE: Final = 2880
#: `safe` of a filter: so many epochs below the latest
_SAFE_DELAY: Final = 30
#: epochs whose traces are read at once
_TOGETHER: Final = 16

_HASH: Final = param_of("txHash", EthHash)


async def _from_node(ctx: Context, name: str, absent: TracesNotRecorded, params: list[Any]) -> Any:
    """The full node's answer instead. Errors: NotHeld (no node: says what is recorded), and the node's own."""
    if ctx.node is None:
        ranges = ranges_text(await covered(ctx.store, TRACES_INDEX))
        why = f"; {absent}" if str(absent) else ""
        raise NotHeld(f"the traces of the tipset at epoch {absent.tipset.height} (recorded: {ranges}{why})") from None
    return await forward(ctx, name, params)


def _other_block(epoch: int) -> Unavailable:
    return Unavailable(f"the full node behind this follower has another block at epoch {epoch} just now")


async def _check_blocks(ctx: Context, traces: Any) -> None:
    """Compare the blocks of a node's traces with the head's chain. Errors: Unavailable, NotHeld."""
    head = (await ctx.head()).tipset
    blocks = {(trace.get("blockNumber"), trace.get("blockHash")) for trace in traces or ()}
    for epoch, digest in sorted(blocks, key=str):
        await ctx.checkpoint()
        at = await ctx.index.at_height(head, epoch) if type(epoch) is int and 0 <= epoch < head.height else None
        if at is None or at.height != epoch or eth_json.data(block_hash(at)) != digest:
            raise _other_block(epoch)


async def _number_of(ctx: Context, tipset: Tipset) -> str:
    """How a node is asked for a tipset's traces: it takes no hashes."""
    return PENDING if tipset.key == (await ctx.head()).tipset.key else hex(tipset.height)


# --- of a block ----------------------------------------------------------------------------------------


@method(
    "Filecoin.EthTraceBlock",
    aliases=("trace_block",),
    versions=EVERY_VERSION,
    cost=Cost.CHAIN,
    answered="recorded",
    cache=Cache.HEAD,
)
async def eth_trace_block(ctx: Context, block: str) -> Any:
    """The traces of a block by number or tag, in order of execution. Errors: NullRound, BadRequest, NotHeld."""
    tipset = await select_text(ctx, block, strict=True)
    try:
        return orjson.Fragment(await read_tipset_traces(ctx, tipset))
    except TracesNotRecorded as absent:
        answer = await _from_node(ctx, "Filecoin.EthTraceBlock", absent, [await _number_of(ctx, tipset)])
    digest = eth_json.data(block_hash(tipset))
    if any(trace.get("blockHash") != digest for trace in answer or ()):
        raise _other_block(tipset.height)
    return answer


@method(
    "Filecoin.EthTraceReplayBlockTransactions",
    aliases=("trace_replayBlockTransactions",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="recorded",
    cache=Cache.HEAD,
)
async def eth_trace_replay_block_transactions(ctx: Context, block: str, kinds: list[str]) -> Any:
    """The traces of a block by transaction, with what each returned; `kinds` is `["trace"]`. Errors: as
    `EthTraceBlock`."""
    if kinds != ["trace"]:
        raise MethodError("only 'trace' is supported")
    tipset = await select_text(ctx, block, strict=True)
    try:
        recorded = await read_tipset_traces(ctx, tipset)
    except TracesNotRecorded as absent:
        params = [await _number_of(ctx, tipset), kinds]
        answer = await _from_node(ctx, "Filecoin.EthTraceReplayBlockTransactions", absent, params)
        if [one.get("transactionHash") for one in answer or ()] != await _hashes_of(ctx, tipset):
            raise _other_block(tipset.height) from None
        return answer
    hashes = await _hashes_of(ctx, tipset)
    return await traces_by_transaction(ctx, iterate_traces(ctx, recorded), hashes)


async def _hashes_of(ctx: Context, tipset: Tipset) -> list[str]:
    """The transaction hashes of a tipset's messages, in order of execution. Errors: NotHeld."""
    return await tx_hashes(ctx, await included_in(ctx, tipset))


# --- of a transaction ----------------------------------------------------------------------------------


async def _beyond_held(ctx: Context, tx_hash: str) -> Any:
    """The full node's traces of a transaction that is not held. Errors: NotHeld (no node), and the node's own."""
    if ctx.node is not None:
        return await forward(ctx, "Filecoin.EthTraceTransaction", [tx_hash])
    indexed, traced = [ranges_text(await covered(ctx.store, index)) for index in (ETH_TXS_INDEX, TRACES_INDEX)]
    raise NotHeld(f"transaction {tx_hash} (transactions are indexed for {indexed}; traces are recorded for {traced})")


@method(
    "Filecoin.EthTraceTransaction",
    aliases=("trace_transaction",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="recorded",
    cache=Cache.HEAD,
)
async def eth_trace_transaction(ctx: Context, tx_hash: str) -> Any:
    """The traces of a transaction on chain. Errors: not found, still pending, NotHeld."""
    try:
        digest = _HASH.decode(tx_hash)
    except ValueError as error:
        raise BadRequest(f"cannot parse eth hash: {error}") from None
    tipset = await transaction_tipset(ctx, digest)
    if tipset is Miss.BEYOND_HELD:
        return await _beyond_held(ctx, tx_hash)
    if isinstance(tipset, Miss):
        if ctx.node is not None and await forward(ctx, "Filecoin.EthGetTransactionByHash", [eth_json.data(digest)]):
            raise BadRequest("no trace for pending transactions")
        raise BadRequest("transaction not found")
    try:
        recorded = await read_tipset_traces(ctx, tipset)
    except TracesNotRecorded as absent:
        return await _from_node(ctx, "Filecoin.EthTraceTransaction", absent, [tx_hash])
    wanted = eth_json.data(digest)
    return [trace async for trace in iterate_traces(ctx, recorded) if trace["transactionHash"] == wanted]


# --- by filter -----------------------------------------------------------------------------------------


async def _bound(ctx: Context, text: str | None, name: str) -> int:
    """The epoch that one end of a filter names. Errors: BadRequest, NotHeld."""
    head = (await ctx.head()).tipset
    text = LATEST if text is None else text
    if text == EARLIEST:
        raise BadRequest(f'cannot parse {name}: block param "{EARLIEST}" is not supported')
    if text == PENDING:
        return head.height
    if text == LATEST:
        return (await ctx.index.parent(head)).height
    if text == "safe":
        # an unsigned number there: below 0 it is beyond every epoch
        return (head.height - 1 - _SAFE_DELAY) % (1 << 64)
    try:
        return TRACE_COUNT.decode("0x" + text.replace("0x", ""))  # type: ignore[no-any-return]
    except ValueError as error:
        raise BadRequest(f"cannot parse {name}: cannot parse fromBlock: {error}") from None


async def _rising(ctx: Context, low: int, high: int) -> AsyncIterator[list[Tipset]]:
    """The tipsets of a range, some at a time. Errors: BadRequest (beyond the head), NotHeld."""
    head = (await ctx.head()).tipset
    top = min(high, head.height - 1)
    for start in range(low, top + 1, _TOGETHER):
        some: list[Tipset] = []
        tipset = await ctx.index.at_height(head, min(start + _TOGETHER - 1, top))
        while tipset.height >= start:
            some.append(tipset)
            if tipset.height == 0:
                break
            tipset = await ctx.index.parent(tipset)
        yield some[::-1]
    first = max(low, head.height)
    if first <= high:
        try:
            await select_number(ctx, first, strict=True)
        except BadRequest as error:
            raise BadRequest(f"cannot get trace for block {first}: {error}") from None


async def _filtered(ctx: Context, wanted: TraceFilter, low: int, high: int) -> list[dict[str, Any]]:
    """Errors: TracesNotRecorded, BadRequest, MethodError (too many results), NotHeld."""
    found: list[dict[str, Any]] = []
    seen = 0
    async for tipsets in _rising(ctx, low, high):
        for tipset, raw in zip(tipsets, await read_traces(ctx, tipsets), strict=True):
            if isinstance(raw, TracesNotRecorded):
                raise raw
            async for trace in iterate_traces(ctx, raw):
                try:
                    if not wanted.matches(trace):
                        continue
                except BadRequest as error:
                    raise BadRequest(f"cannot match filter for block {tipset.height}: {error}") from None
                seen += 1
                if seen <= wanted.after:
                    continue
                found.append(trace)
                if wanted.count is not None and len(found) >= wanted.count:
                    return found
                if len(found) > MAX_RESULTS:
                    raise MethodError(
                        f"too many results, maximum supported is {MAX_RESULTS}, "
                        "try paginating requests with After and Count"
                    )
    return found


@method(
    "Filecoin.EthTraceFilter",
    aliases=("trace_filter",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="recorded",
    cache=Cache.HEAD,
)
async def eth_trace_filter(ctx: Context, wanted: TraceFilterParam) -> Any:
    """The traces of up to 2,880 epochs by sender and receiver, from `after` on, at most `count` (up to 500).

    Errors: LimitExceeded (the range), too many results, a block that is not executed yet, NotHeld.
    """
    low = await _bound(ctx, wanted.low, "fromBlock")
    high = await _bound(ctx, wanted.high, "toBlock")
    if high - low > MAX_RANGE:
        text = f"block range exceeds maximum of {MAX_RANGE} (got {high - low})"
        raise LimitExceeded(text, limit_data("block_range", MAX_RANGE, high - low))
    if wanted.count == 0:
        return []
    if wanted.count is not None and wanted.count > MAX_RESULTS:
        raise MethodError(f"invalid response count, requested {wanted.count}, maximum supported is {MAX_RESULTS}")
    try:
        return await _filtered(ctx, wanted, low, high)
    except TracesNotRecorded as absent:
        answer = await _from_node(ctx, "Filecoin.EthTraceFilter", absent, [_pinned(wanted, low, high)])
    await _check_blocks(ctx, answer)
    return answer


def _pinned(wanted: TraceFilter, low: int, high: int) -> dict[str, Any]:
    """The same filter with its ends as numbers."""
    pinned: dict[str, Any] = {"fromBlock": hex(low), "toBlock": hex(high)}
    if wanted.senders:
        pinned["fromAddress"] = sorted(wanted.senders)
    if wanted.receivers:
        pinned["toAddress"] = sorted(wanted.receivers)
    if wanted.after:
        pinned["after"] = hex(wanted.after)
    if wanted.count is not None:
        pinned["count"] = hex(wanted.count)
    return pinned
