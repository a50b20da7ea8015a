"""`eth_getLogs`. Limits, order and texts are Lotus', `node/impl/eth/events.go`, `chain/index/events.go`."""

from __future__ import annotations

from typing import Final

from chain.errors import BadRequest, NotFound
from rpc.context import Context
from rpc.errors import MethodError
from rpc.json_wire import JsonText
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.events.criteria import EventCriteria
from rpc.lookup.events.find_events import find_in, find_range, logs_json, tipset_by_hash
from rpc.lookup.events.log_filter import NEWEST, LogFilter, LogFilterParam, log_criteria, parse_block_range
from rpc.registry import EVERY_VERSION, Cache, Cost, method

_NOT_YET: Final = "events for the requested block are not yet available"


async def _find_in_block(ctx: Context, digest: bytes, conditions: EventCriteria) -> JsonText:
    """The logs of one tipset, on whatever fork. Errors: BadRequest (not executed yet), NotFound, NotHeld."""
    tipset = await tipset_by_hash(ctx, digest)
    if tipset.height >= (await ctx.pin_head()).tipset.height:
        raise BadRequest(_NOT_YET)
    found = await find_in(ctx, [tipset], conditions)
    is_removed = not await is_canonical(ctx, tipset)
    # that it is executed depends on a tipset above it
    ctx.note_chain(tipset.height + 1)
    return await logs_json(ctx, found, is_removed)


async def _find_in_range(ctx: Context, low: int, high: int, conditions: EventCriteria) -> JsonText:
    """The logs of a range of epochs. Errors: BadRequest (the head is not above it), NotHeld."""
    head = (await ctx.pin_head()).tipset
    if low >= head.height or high >= head.height:
        raise BadRequest(_NOT_YET)
    # the tipsets of the range, and that there is one above them
    ctx.note_chain(high + 1)
    return await logs_json(ctx, await find_range(ctx, low, high, conditions))


async def _find(ctx: Context, wanted: LogFilter) -> JsonText:
    newest = (await ctx.pin_head()).tipset.height - 1
    low = high = 0
    try:
        if wanted.block_hash is not None:
            if wanted.low is not None or wanted.high is not None:
                raise BadRequest("must not specify block hash and from/to block")
        else:
            low, high = parse_block_range(newest, wanted.low, wanted.high)
        conditions = log_criteria(wanted)
    except BadRequest as error:
        raise BadRequest(f"failed to parse eth filter spec: {error}") from None
    if wanted.block_hash is not None:
        return await _find_in_block(ctx, wanted.block_hash, conditions)
    if wanted.low in NEWEST or wanted.high in NEWEST:
        await ctx.head()  # all of it: the range ends elsewhere after the next one
    return await _find_in_range(ctx, low, newest if high == -1 else high, conditions)


@method(
    "Filecoin.EthGetLogs",
    aliases=("eth_getLogs",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    answered="indexed",
    cache=Cache.CHAIN,
    proves_empty=True,
)
async def eth_get_logs(ctx: Context, wanted: LogFilterParam) -> JsonText:
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
