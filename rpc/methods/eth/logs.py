"""`eth_getLogs`. Limits, order and texts are Lotus', `node/impl/eth/events.go`, `chain/index/events.go`."""

from __future__ import annotations

from typing import Final

import orjson

from chain.errors import BadRequest, NotFound
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.events.find_events import find_in, find_range, logs_json, tipset_by_hash
from rpc.lookup.events.log_filter import LogFilter, LogFilterParam, log_criteria, parse_block_range
from rpc.registry import EVERY_VERSION, Cache, Cost, method

_NOT_YET: Final = "events for the requested block are not yet available"


async def _one_tipset(ctx: Context, digest: bytes) -> Tipset:
    """Errors: BadRequest (its events are not there yet), NotFound, NotHeld."""
    tipset = await tipset_by_hash(ctx, digest)
    if tipset.height >= (await ctx.head()).tipset.height:
        raise BadRequest(_NOT_YET)
    return tipset


async def _find(ctx: Context, wanted: LogFilter) -> orjson.Fragment:
    head = (await ctx.head()).tipset
    low = high = 0
    try:
        if wanted.block_hash is not None:
            if wanted.low is not None or wanted.high is not None:
                raise BadRequest("must not specify block hash and from/to block")
        else:
            low, high = parse_block_range(head.height - 1, wanted.low, wanted.high)
        conditions = log_criteria(wanted)
    except BadRequest as error:
        raise BadRequest(f"failed to parse eth filter spec: {error}") from None
    if wanted.block_hash is not None:
        tipset = await _one_tipset(ctx, wanted.block_hash)
        return await logs_json(ctx, await find_in(ctx, [tipset], conditions), not await is_canonical(ctx, tipset))
    if low >= head.height or high >= head.height:
        raise BadRequest(_NOT_YET)
    return await logs_json(ctx, await find_range(ctx, low, head.height - 1 if high == -1 else high, conditions))


@method(
    "Filecoin.EthGetLogs",
    aliases=("eth_getLogs",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="indexed",
    cache=Cache.HEAD,
)
async def eth_get_logs(ctx: Context, wanted: LogFilterParam) -> orjson.Fragment:
    """The logs of a block or a range of up to 2,880 epochs that match addresses and topics; at most 10,000.

    Errors: LimitExceeded (the range), too many results, a block that is not executed yet, NotFound, NotHeld (names
    what is covered).
    """
    if wanted is None:
        raise MethodError("failed to get events for filter: no filter is given")
    try:
        return await _find(ctx, wanted)
    except MethodError as error:
        said = "failed to get events for filter: failed to get events for filter from chain indexer"
        raise MethodError(f"{said}: {error.message}") from error
    except (BadRequest, NotFound) as error:
        raise MethodError(f"failed to get events for filter: {error}") from error
