"""Filters that a client installs and polls: of logs, blocks, pending transactions. On any follower: see
`installed_filters`.

As in Lotus a new filter of logs begins with what its range holds already, `eth_getFilterLogs` tells what
`eth_getFilterChanges` would, and a filter of blocks tells each tipset that becomes the head. Sources: Lotus
`node/impl/eth/events.go`, `chain/events/filter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from chain.errors import BadRequest, NotFound
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError, Unavailable, limit_data
from rpc.json_wire import ArrayBuilder, JsonText
from rpc.lookup.events.log_filter import LogFilterParam, log_criteria, parse_block_range
from rpc.lookup.filters.filter_changes import find_filter_changes, load_history
from rpc.lookup.filters.installed_filters import (
    BLOCKS,
    LOGS,
    PENDING,
    TOO_MANY_OF_CONNECTION,
    FilterId,
    FilterState,
    LogQuery,
    filters_of,
)
from rpc.lookup.head_changes import cursor_at_head
from rpc.methods.eth.pending_filter import MISSED, Missed, cursor_at, new_pending_filter, pending_hashes
from rpc.registry import EVERY_VERSION, Cache, Cost, method

#: how often a poll begins again because another was first
_TRIES: Final = 8
#: values that are joined between two checkpoints
_RUN: Final = 256


async def _poll(ctx: Context, filter_id: bytes, kinds: tuple[str, ...]) -> JsonText:
    filters = filters_of(ctx)
    for _ in range(_TRIES):
        raw, state = await filters.read(filter_id)
        if state.kind not in kinds:
            raise MethodError("wrong filter type")
        missed = False
        if state.kind == PENDING:
            try:
                hashes, told = await pending_hashes(ctx).after(state.cursor.seq)
            except Missed as error:
                hashes, told, missed = [], error.until, True
            values = [orjson.dumps(eth_json.data(one)) for one in hashes]
            # a poll that finds nothing writes nothing
            after = replace(state, cursor=cursor_at(told)) if values or missed else state
        else:
            values, after = await find_filter_changes(ctx, state, filters)
        # before the filter forgets them: a request may run out of time
        answer = await _array(ctx, values)
        if await filters.advance(filter_id, raw, state, after):
            if missed:
                raise MethodError(MISSED)
            return answer
    raise Unavailable("the filter is polled by others at the same time")


async def _array(ctx: Context, values: Sequence[bytes]) -> JsonText:
    array = ArrayBuilder()
    for at in range(0, len(values), _RUN):
        await ctx.checkpoint()
        array.add(values[at : at + _RUN])
    return array.text()


# --- methods -------------------------------------------------------------------------------------------


async def _install(ctx: Context, state: FilterState) -> str:
    filters = filters_of(ctx)
    held = None if ctx.session is None else ctx.session.filter_ids
    if held is not None and len(held) >= filters.limits.per_connection:
        raise MethodError(TOO_MANY_OF_CONNECTION, limit_data("filters_per_connection", filters.limits.per_connection))
    filter_id = await filters.install(state, ctx.client)
    if held is not None:
        held.add(filter_id)
    return eth_json.data(filter_id)


@method(
    "Filecoin.EthNewFilter",
    aliases=("eth_newFilter",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="indexed",
    cache=Cache.NEVER,
)
async def eth_new_filter(ctx: Context, wanted: LogFilterParam) -> str:
    """Install a filter of logs; its id. It begins with the logs that its range holds already.

    Errors: LimitExceeded (the range, the filter's size), BadRequest, too many results, too many filters, NotHeld.
    """
    if wanted is None:
        raise MethodError("no filter is given")
    head = await ctx.head()
    low, high = 0, -1
    if wanted.block_hash is None:
        low, high = parse_block_range(head.tipset.height - 1, wanted.low, wanted.high)
    elif wanted.low is not None or wanted.high is not None:
        raise BadRequest("must not specify block hash and from/to block")
    log_criteria(wanted)
    query = LogQuery(low, high, wanted.block_hash, wanted.addresses, wanted.topics)
    state = FilterState(LOGS, cursor_at_head(head), 0, query=query)
    if low < head.tipset.height:
        try:
            # found again by the first poll: what is found now is only counted
            state = replace(state, has_history=bool(await load_history(ctx, state)))
        except (MethodError, BadRequest, NotFound) as error:
            raise MethodError(f"failed to install event filter: get events for filter: {error}") from error
    return await _install(ctx, state)


@method("Filecoin.EthNewBlockFilter", aliases=("eth_newBlockFilter",), versions=EVERY_VERSION, cache=Cache.NEVER)
async def eth_new_block_filter(ctx: Context) -> str:
    """Install a filter that tells the hash of each tipset that becomes the head; its id."""
    return await _install(ctx, FilterState(BLOCKS, cursor_at_head(await ctx.head()), 0))


@method(
    "Filecoin.EthNewPendingTransactionFilter",
    aliases=("eth_newPendingTransactionFilter",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="forwarded",
    cache=Cache.NEVER,
)
async def eth_new_pending_transaction_filter(ctx: Context) -> str:
    """Install a filter that tells the hash of each transaction that comes into a full node's mempool; its id.

    Errors: NeedsNode, Unavailable (no node tells its mempool), too many filters.
    """
    return await _install(ctx, await new_pending_filter(ctx))


@method(
    "Filecoin.EthGetFilterChanges",
    aliases=("eth_getFilterChanges",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="indexed",
    cache=Cache.NEVER,
)
async def eth_get_filter_changes(ctx: Context, filter_id: FilterId) -> JsonText:
    """What a filter has to tell since it was last polled: logs (removed ones too, after a reorg), block hashes, or
    hashes of pending transactions.

    At most 10,000 results, but that a tipset's are never parted; the next poll goes on behind them. Errors:
    "filter not found", NotHeld, Unavailable; pending transactions were missed (the next poll tells what comes now).
    """
    return await _poll(ctx, filter_id, (LOGS, BLOCKS, PENDING))


@method(
    "Filecoin.EthGetFilterLogs",
    aliases=("eth_getFilterLogs",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="indexed",
    cache=Cache.NEVER,
)
async def eth_get_filter_logs(ctx: Context, filter_id: FilterId) -> JsonText:
    """As `EthGetFilterChanges`, of filters of logs alone. Errors: "wrong filter type", and as there."""
    return await _poll(ctx, filter_id, (LOGS,))


@method("Filecoin.EthUninstallFilter", aliases=("eth_uninstallFilter",), versions=EVERY_VERSION, cache=Cache.NEVER)
async def eth_uninstall_filter(ctx: Context, filter_id: FilterId) -> bool:
    """Forget a filter; whether there was one."""
    if ctx.session is not None:
        ctx.session.filter_ids.discard(filter_id)
    return await filters_of(ctx).remove(filter_id)
