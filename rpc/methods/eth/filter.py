"""Filters that a client installs and polls: of logs and of blocks. On any follower: see `installed_filters`.

As in Lotus a new filter of logs begins with what its range holds already, `eth_getFilterLogs` tells what
`eth_getFilterChanges` would, and a filter of blocks tells each tipset that becomes the head. Sources: Lotus
`node/impl/eth/events.go`, `chain/events/filter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import orjson

from chain.consensus.ancestry import Place
from chain.errors import BadRequest, ChainError, NotFound
from chain.eth.types import hash_of
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError, Unavailable
from rpc.lookup.eth.block_parameter import canonical
from rpc.lookup.eth.installed_filters import BLOCKS, LOGS, Asked, Cursor, FilterId, Filters, FilterState, filters_of
from rpc.lookup.events.event_search import Hit, event_search, joined
from rpc.lookup.events.head_change_events import EventCondition, Step, cursor_at, hits_in, parent_place, steps_to
from rpc.methods.eth.block import EVERY
from rpc.methods.eth.log import FilterParam, LogFilter, block_range, collect, log_conditions, tipset_by_hash
from rpc.registry import Cost, method
from rpc.services import Head

#: how often a poll begins again because another was first
_TRIES: Final = 8
#: head changes looked at together
_SLICE: Final = 128

TOO_MANY_HERE: Final = "too many subscriptions and filters per connection"
NO_MEMPOOL: Final = (
    "not supported: pending transactions are known to the full node that has them in its mempool, not to this follower"
)


# --- what is told --------------------------------------------------------------------------------------


def condition_of(asked: Asked) -> EventCondition:
    """What a filter of logs tells. Errors: BadRequest."""
    conditions = log_conditions(LogFilter(addresses=asked.addresses, topics=asked.topics))
    return EventCondition.of(conditions, asked.low, asked.high, asked.block_hash)


def logs_of(hits: Iterable[Hit], removed: bool) -> list[bytes]:
    """Hits as logs, JSON. An event that no transaction or address of Ethereum's stands for is left out."""
    found: list[bytes] = []
    for hit in hits:
        try:
            log = hit.log(removed)
        except ChainError:
            continue
        if log is not None:
            found.append(log)
    return found


async def _history(ctx: Context, state: FilterState) -> list[bytes]:
    """What a filter's range held when it was installed. Errors: MethodError (too many results), ChainError."""
    condition = condition_of(state.asked)
    # the chain as it was then, whatever has happened since
    told = Head(state.cursor.seq, None, await ctx.index.tipset(state.cursor.key))
    view = Context(ctx.services, version=ctx.version)
    view.pinned = told
    found: list[Hit] = []
    removed = False
    if condition.block_hash is not None:
        tipset = await tipset_by_hash(view, condition.block_hash)
        if tipset.height < told.tipset.height:
            places = [Place(tipset.height, condition.block_hash, tipset.key)]
            found = await collect(event_search(view).places(view, places, condition.held))
            removed = not await canonical(view, tipset)
    else:
        top = told.tipset.height - 1
        high = top if condition.high == -1 else min(condition.high, top)
        found = await collect(event_search(view).range(view, condition.low, high, condition.held))
        if not found and condition.high > told.tipset.height:
            raise BadRequest(f"range end is in the future, highest epoch: {told.tipset.height}")
    return logs_of(found, removed)


class _Told:
    """What one poll tells, and how far that goes."""

    def __init__(self, cursor: Cursor, most: int) -> None:
        self.cursor = cursor
        self.values: list[bytes] = []
        self.full = False
        self.most = most

    def add(self, step: Step, values: list[bytes]) -> bool:
        """Whether what a step tells goes in; a single step's always does."""
        if self.values and len(self.values) + len(values) > self.most:
            self.full = True
            return False
        self.values += values
        self.cursor = step.after
        return True


async def _add_logs(ctx: Context, condition: EventCondition, steps: list[Step], told: _Told) -> None:
    """Tell the steps, as many as there is room for."""
    while steps and not told.full:
        parents = [await parent_place(ctx.index, step.key) for step in steps]
        found: dict[bytes, Sequence[Hit]] = {}
        count = 0
        crowded = False
        async for block_hash, hits in hits_in(ctx, [place for place in parents if place is not None], condition):
            found[block_hash] = hits
            count += len(hits)
            if count > told.most and len(steps) > 1:
                crowded = True
                break
        if crowded:
            # too much to look at in one go: tell half of it first
            half = len(steps) // 2
            await _add_logs(ctx, condition, steps[:half], told)
            steps = steps[half:]
            continue
        for step, place in zip(steps, parents, strict=True):
            logs = [] if place is None else logs_of(found.get(place.block_hash, ()), step.reverted)
            if not told.add(step, logs):
                return
        return


async def _changes(ctx: Context, state: FilterState, filters: Filters) -> tuple[list[bytes], FilterState]:
    """What has happened since a filter was polled, and the filter afterwards. Errors: ChainError, StoreError."""
    head = await ctx.head()
    told = _Told(state.cursor, filters.limits.results)
    if state.history:
        told.values += await _history(ctx, state)
    condition = condition_of(state.asked) if state.kind == LOGS else None
    steps: list[Step] = []

    async def tell() -> None:
        if condition is not None:
            await _add_logs(ctx, condition, steps, told)
            return
        for step in steps:
            shown = b"" if step.reverted else orjson.dumps(eth_json.data(hash_of(step.key.cid)))
            if not told.add(step, [shown] if shown else []):
                return

    # a follower that is behind the one polled last has nothing to tell
    if head.seq >= state.cursor.seq:
        async for step in steps_to(ctx, state.cursor, head):
            steps.append(step)
            if len(steps) == _SLICE:
                await tell()
                steps = []
                if told.full:
                    break
        if not told.full:
            await tell()
        if not told.full:
            # the log may have lacked what lies between, or have led back to where the telling stood
            told.cursor = cursor_at(head)
    return told.values, replace(state, cursor=told.cursor, history=False)


async def _poll(ctx: Context, filter_id: bytes, kinds: tuple[str, ...]) -> orjson.Fragment:
    filters = filters_of(ctx)
    for _ in range(_TRIES):
        raw, state = await filters.read(filter_id)
        if state.kind not in kinds:
            raise MethodError("wrong filter type")
        values, after = await _changes(ctx, state, filters)
        if await filters.told(filter_id, raw, state, after):
            return joined(values)
    raise Unavailable("the filter is polled by others at the same time")


# --- methods -------------------------------------------------------------------------------------------


async def _install(ctx: Context, state: FilterState) -> str:
    filters = filters_of(ctx)
    held = None if ctx.connection is None else ctx.connection.held
    if held is not None and len(held) >= filters.limits.per_connection:
        raise MethodError(TOO_MANY_HERE)
    filter_id = await filters.install(state, ctx.client)
    if held is not None:
        held.add(filter_id)
    return eth_json.data(filter_id)


@method("Filecoin.EthNewFilter", aliases=("eth_newFilter",), versions=EVERY, cost=Cost.SCAN, answered="indexed")
async def eth_new_filter(ctx: Context, wanted: FilterParam) -> str:
    """Install a filter of logs; its id. It begins with the logs that its range holds already.

    Errors: LimitExceeded (the range, the filter's size), BadRequest, too many results, too many filters, NotHeld.
    """
    if wanted is None:
        raise MethodError("no filter is given")
    head = await ctx.head()
    low, high = 0, -1
    if wanted.block_hash is None:
        low, high = block_range(head.tipset.height - 1, wanted.low, wanted.high)
    elif wanted.low is not None or wanted.high is not None:
        raise BadRequest("must not specify block hash and from/to block")
    log_conditions(wanted)
    asked = Asked(low, high, wanted.block_hash, wanted.addresses, wanted.topics)
    state = FilterState(LOGS, cursor_at(head), 0, asked=asked)
    if low < head.tipset.height:
        try:
            # found again by the first poll: what is found now is only counted
            state = replace(state, history=bool(await _history(ctx, state)))
        except (MethodError, BadRequest, NotFound) as error:
            raise MethodError(f"failed to install event filter: get events for filter: {error}") from error
    return await _install(ctx, state)


@method("Filecoin.EthNewBlockFilter", aliases=("eth_newBlockFilter",), versions=EVERY)
async def eth_new_block_filter(ctx: Context) -> str:
    """Install a filter that tells the hash of each tipset that becomes the head; its id."""
    return await _install(ctx, FilterState(BLOCKS, cursor_at(await ctx.head()), 0))


@method(
    "Filecoin.EthNewPendingTransactionFilter",
    aliases=("eth_newPendingTransactionFilter",),
    versions=EVERY,
    cost=Cost.FREE,
    answered="local",
)
async def eth_new_pending_transaction_filter(ctx: Context) -> str:
    """Always an error: a follower has no mempool."""
    raise MethodError(NO_MEMPOOL)


@method(
    "Filecoin.EthGetFilterChanges",
    aliases=("eth_getFilterChanges",),
    versions=EVERY,
    cost=Cost.SCAN,
    answered="indexed",
)
async def eth_get_filter_changes(ctx: Context, filter_id: FilterId) -> orjson.Fragment:
    """What a filter has to tell since it was last polled: logs (removed ones too, after a reorg) or block hashes.

    At most 10,000 results, but that a tipset's are never parted; the next poll goes on behind them. Errors:
    "filter not found", NotHeld, Unavailable.
    """
    return await _poll(ctx, filter_id, (LOGS, BLOCKS))


@method("Filecoin.EthGetFilterLogs", aliases=("eth_getFilterLogs",), versions=EVERY, cost=Cost.SCAN, answered="indexed")
async def eth_get_filter_logs(ctx: Context, filter_id: FilterId) -> orjson.Fragment:
    """As `EthGetFilterChanges`, of filters of logs alone. Errors: "wrong filter type", and as there."""
    return await _poll(ctx, filter_id, (LOGS,))


@method("Filecoin.EthUninstallFilter", aliases=("eth_uninstallFilter",), versions=EVERY)
async def eth_uninstall_filter(ctx: Context, filter_id: FilterId) -> bool:
    """Forget a filter; whether there was one."""
    if ctx.connection is not None:
        ctx.connection.held.discard(filter_id)
    return await filters_of(ctx).remove(filter_id)
