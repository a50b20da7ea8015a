"""What a poll of an installed filter returns, and the filter's cursor afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from chain.consensus.ancestry import Ancestor
from chain.errors import BadRequest
from chain.eth.transaction import NotEthTx
from chain.eth.types import EthAddressError
from rpc import eth_json
from rpc.context import Context
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.events.criteria import Hit
from rpc.lookup.events.event_search import event_search
from rpc.lookup.events.find_events import collect_hits, take_hits, tipset_by_hash
from rpc.lookup.events.head_change_events import EventCondition, find_hits_in
from rpc.lookup.events.log_filter import LogFilter, log_criteria
from rpc.lookup.filters.installed_filters import LOGS, Filters, FilterState, LogQuery
from rpc.lookup.head_changes import Cursor, Step, context_at, cursor_at_head, find_parent, steps_since
from rpc.services import Head

#: head changes looked at together
_SLICE: Final = 128


def filter_condition(query: LogQuery) -> EventCondition:
    """The condition of a log filter. Errors: BadRequest."""
    conditions = log_criteria(LogFilter(addresses=query.addresses, topics=query.topics))
    return EventCondition.of(conditions, query.low, query.high, query.block_hash)


async def encode_logs(ctx: Context, hits: list[Hit], removed: bool) -> list[bytes]:
    """Hits as logs, JSON. Left out: events without an Ethereum transaction or emitter address. Takes the hits."""
    found: list[bytes] = []
    async for some in take_hits(ctx, hits):
        for hit in some:
            try:
                log = hit.log(removed)
            except (NotEthTx, EthAddressError):
                continue
            if log is not None:
                found.append(log)
    return found


async def load_history(ctx: Context, state: FilterState) -> list[bytes]:
    """The logs of a filter's range when it was installed.

    Errors: MethodError (too many results), BadRequest, NotFound, NotHeld.
    """
    condition = filter_condition(state.query)
    # the chain as it was then, whatever has happened since
    installed_at = Head(state.cursor.seq, None, await ctx.index.tipset(state.cursor.key))
    view = context_at(ctx, installed_at)
    found: list[Hit] = []
    removed = False
    if condition.block_hash is not None:
        tipset = await tipset_by_hash(view, condition.block_hash)
        if tipset.height < installed_at.tipset.height:
            places = [Ancestor(tipset.height, condition.block_hash, tipset.key)]
            found = await collect_hits(event_search(view).search_tipsets(view, places, condition.stored))
            removed = not await is_canonical(view, tipset)
    else:
        top = installed_at.tipset.height - 1
        high = top if condition.high == -1 else min(condition.high, top)
        found = await collect_hits(event_search(view).search_epochs(view, condition.low, high, condition.stored))
        if not found and condition.high > installed_at.tipset.height:
            raise BadRequest(f"range end is in the future, highest epoch: {installed_at.tipset.height}")
    return await encode_logs(view, found, removed)


class _PollResult:
    """The values of one poll, and the cursor behind them."""

    def __init__(self, cursor: Cursor, max_values: int) -> None:
        self.cursor = cursor
        self.values: list[bytes] = []
        self.is_full = False
        self.max_values = max_values

    def add(self, step: Step, values: list[bytes]) -> bool:
        """Add the values of a step; False where they do not fit. Those of a single step always fit."""
        if self.values and len(self.values) + len(values) > self.max_values:
            self.is_full = True
            return False
        self.values += values
        self.cursor = step.after
        return True


async def _add_logs(ctx: Context, condition: EventCondition, steps: list[Step], result: _PollResult) -> None:
    """Add the logs of these steps, as many as there is room for."""
    while steps and not result.is_full:
        parents = [await find_parent(ctx.index, step.key) for step in steps]
        found: dict[bytes, Sequence[Hit]] = {}
        count = 0
        too_many = False
        async for block_hash, hits in find_hits_in(ctx, [place for place in parents if place is not None], condition):
            found[block_hash] = hits
            count += len(hits)
            if count > result.max_values and len(steps) > 1:
                too_many = True
                break
        if too_many:
            # more than one poll returns: take half of the steps first
            half = len(steps) // 2
            await _add_logs(ctx, condition, steps[:half], result)
            steps = steps[half:]
            continue
        for step, place in zip(steps, parents, strict=True):
            hits = [] if place is None else list(found.get(place.block_hash, ()))
            logs = await encode_logs(ctx, hits, step.reverted)
            if not result.add(step, logs):
                return
        return


async def find_filter_changes(ctx: Context, state: FilterState, filters: Filters) -> tuple[list[bytes], FilterState]:
    """The changes since a filter's last poll, and the filter afterwards.

    Errors: MethodError, BadRequest, NotFound, NotHeld, StoreError.
    """
    head = await ctx.head()
    result = _PollResult(state.cursor, filters.limits.results)
    if state.has_history:
        result.values += await load_history(ctx, state)
    condition = filter_condition(state.query) if state.kind == LOGS else None
    steps: list[Step] = []

    async def add_steps() -> None:
        if condition is not None:
            await _add_logs(ctx, condition, steps, result)
            return
        for step in steps:
            shown = b"" if step.reverted else orjson.dumps(eth_json.data(step.key.block_hash))
            if not result.add(step, [shown] if shown else []):
                return

    # a follower that is behind the one polled last has nothing to report
    if head.seq >= state.cursor.seq:
        async for step in steps_since(ctx, state.cursor, head):
            steps.append(step)
            if len(steps) == _SLICE:
                await add_steps()
                steps = []
                if result.is_full:
                    break
        if not result.is_full:
            await add_steps()
        if not result.is_full:
            # the head log may lack what lies between, or lead back to the cursor
            result.cursor = cursor_at_head(head)
    return result.values, replace(state, cursor=result.cursor, has_history=False)
