"""`eth_subscribe` over a WebSocket: new blocks and logs, pushed as `eth_subscription`.

As in Lotus a block is told when its child becomes the head (its messages are executed then), with its transactions
whole, and no block twice running; a log is taken back, `removed`, when the tipset that executed it is reverted; and
the `logIndex` of a pushed log is always 0. Sources: Lotus `node/impl/eth/events.go`, `subscriptions.go`,
`chain/events/filter`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from chain.tipset import TipsetKey
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError, limit_data
from rpc.lookup.eth.blocks import load_block_json
from rpc.lookup.events.head_change_events import EventCondition, find_hits_of_entry
from rpc.lookup.events.log_filter import LogFilter, PushedFilterParam
from rpc.lookup.filters.filter_changes import encode_logs, filter_condition
from rpc.lookup.filters.installed_filters import (
    NO_MEMPOOL,
    TOO_MANY_OF_CONNECTION,
    LogQuery,
    SubscriptionId,
    filters_of,
    new_id,
)
from rpc.lookup.head_changes import context_at_entry
from rpc.lookup.shared_values import Make, Shown, heard
from rpc.methods.eth.pending import new_pending_transactions
from rpc.params import RawParams, json_kind, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cache, Cost, method
from rpc.services import head_entries

log = logging.getLogger("follower.rpc")

_LOG_INDEX: Final = re.compile(rb'"logIndex":"0x[0-9a-f]+"')
_FILTER: Final = param_of("filter", PushedFilterParam)


async def new_heads(ctx: Context, after: int) -> AsyncIterator[Shown]:
    """The block below each tipset that becomes the head after entry `after`. No channel tells one twice running."""
    async with head_entries(ctx.services.head_source, after) as entries:
        async for entry in entries:
            view = await context_at_entry(ctx, entry)
            for ref in entry.applies:
                tipset = await view.index.tipset(TipsetKey(ref.key))
                if tipset.height:
                    block = await load_block_json(view, await view.index.parent(tipset), True)
                    yield Shown(entry.seq, [block], tipset.parents)


def new_logs(condition: EventCondition) -> Make:
    """The logs that each head change adds or removes."""

    async def made(ctx: Context, after: int) -> AsyncIterator[Shown]:
        async with head_entries(ctx.services.head_source, after) as entries:
            async for entry in entries:
                view = await context_at_entry(ctx, entry)
                async for removed, hits in find_hits_of_entry(view, entry, condition):
                    yield Shown(entry.seq, [pushed_log(one) for one in await encode_logs(view, list(hits), removed)])

    return made


def pushed_log(shown: bytes) -> orjson.Fragment:
    """A log as a subscription pushes it: Lotus numbers none there."""
    return orjson.Fragment(_LOG_INDEX.sub(b'"logIndex":"0x0"', shown, count=1))


def read_params(params: Any) -> tuple[str, LogFilter | None]:
    """(what is subscribed to, filter of logs). Errors: MethodError."""
    params = raw_list(params, 1, 2)
    wanted = None
    if len(params) == 2 and params[1] is not None:
        given = params[1]
        if not isinstance(given, dict):
            raise _undecoded(given, "ethtypes.EthSubscriptionParams")
        fields = {name: value for name, value in given.items() if name.lower() in ("address", "topics")}
        try:
            wanted = _FILTER.decode(fields)
        except ValueError as error:
            raise MethodError(f"decoding params: {error}") from None
    kind = params[0]
    if kind is not None and not isinstance(kind, str):
        raise _undecoded(kind, "string")
    return kind or "", wanted


def _undecoded(value: Any, go: str) -> MethodError:
    return MethodError(f"decoding params: json: cannot unmarshal {json_kind(value)} into Go value of type {go}")


@method(
    "Filecoin.EthSubscribe",
    aliases=("eth_subscribe",),
    versions=EVERY_VERSION,
    cost=Cost.FREE,
    answered="indexed",
    cache=Cache.NEVER,
)
async def eth_subscribe(ctx: Context, params: RawParams) -> str:
    """Push `newHeads`, `logs` by address and topics, or `newPendingTransactions`, over this WebSocket; the id.

    Pending transactions are the full node's: their hashes. The session ends for a client that reads too slowly.
    Errors: no WebSocket, another type, too many subscriptions, `newPendingTransactions` without a full node.
    """
    kind, wanted = read_params(params)
    connection = ctx.session
    if connection is None:
        raise MethodError("connection doesn't support callbacks")
    most = filters_of(ctx).limits.per_connection
    if len(connection.filter_ids) >= most:
        raise MethodError(TOO_MANY_OF_CONNECTION, limit_data("filters_per_connection", most))
    after = (await ctx.head()).seq
    values: AsyncIterator[Any]
    if kind == "newHeads":
        values = heard(ctx, kind, new_heads, after)
    elif kind == "logs":
        query = LogQuery() if wanted is None else LogQuery(addresses=wanted.addresses, topics=wanted.topics)
        values = heard(ctx, (kind, query), new_logs(filter_condition(query)), after)
    elif kind == "newPendingTransactions":
        if ctx.services.mempool is None:
            raise MethodError(NO_MEMPOOL)
        values = new_pending_transactions(ctx, ctx.services.mempool)
    else:
        raise MethodError(f"unsupported event type: {kind}")
    subscription = new_id()
    connection.subscribe(ctx, subscription, values)
    return eth_json.data(subscription)


@method(
    "Filecoin.EthUnsubscribe",
    aliases=("eth_unsubscribe",),
    versions=EVERY_VERSION,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.NEVER,
)
async def eth_unsubscribe(ctx: Context, subscription: SubscriptionId) -> bool:
    """End a subscription of this WebSocket; whether there was one."""
    return ctx.session is not None and ctx.session.unsubscribe(subscription)
