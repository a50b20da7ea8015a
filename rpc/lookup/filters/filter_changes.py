"""What a poll of an installed filter returns, and how far the filter has told its changes then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import orjson

from chain.consensus.ancestry import Ancestor
from chain.errors import BadRequest, ChainError
from rpc import eth_json
from rpc.context import Context
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.events.criteria import Hit
from rpc.lookup.events.event_search import event_search
from rpc.lookup.events.find_events import collect_hits, tipset_by_hash
from rpc.lookup.events.head_change_events import EventCondition, hits_in
from rpc.lookup.events.log_filter import LogFilter, log_criteria
from rpc.lookup.filters.installed_filters import LOGS, Asked, Filters, FilterState
from rpc.lookup.head_changes import Cursor, Step, cursor_at_head, find_parent, steps_since
from rpc.services import Head

#: head changes looked at together
_SLICE: Final = 128


def filter_condition(asked: Asked) -> EventCondition:
    """What a filter of logs tells. Errors: BadRequest."""
    conditions = log_criteria(LogFilter(addresses=asked.addresses, topics=asked.topics))
    return EventCondition.of(conditions, asked.low, asked.high, asked.block_hash)


def encode_logs(hits: Iterable[Hit], removed: bool) -> list[bytes]:
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


async def load_history(ctx: Context, state: FilterState) -> list[bytes]:
    """What a filter's range held when it was installed. Errors: MethodError (too many results), ChainError."""
    condition = filter_condition(state.asked)
    # the chain as it was then, whatever has happened since
    told = Head(state.cursor.seq, None, await ctx.index.tipset(state.cursor.key))
    view = Context(ctx.services, version=ctx.version)
    view.pinned = told
    found: list[Hit] = []
    removed = False
    if condition.block_hash is not None:
        tipset = await tipset_by_hash(view, condition.block_hash)
        if tipset.height < told.tipset.height:
            places = [Ancestor(tipset.height, condition.block_hash, tipset.key)]
            found = await collect_hits(event_search(view).places(view, places, condition.held))
            removed = not await is_canonical(view, tipset)
    else:
        top = told.tipset.height - 1
        high = top if condition.high == -1 else min(condition.high, top)
        found = await collect_hits(event_search(view).range(view, condition.low, high, condition.held))
        if not found and condition.high > told.tipset.height:
            raise BadRequest(f"range end is in the future, highest epoch: {told.tipset.height}")
    return encode_logs(found, removed)


class _PollResult:
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


async def _add_logs(ctx: Context, condition: EventCondition, steps: list[Step], told: _PollResult) -> None:
    """Tell the steps, as many as there is room for."""
    while steps and not told.full:
        parents = [await find_parent(ctx.index, step.key) for step in steps]
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
            logs = [] if place is None else encode_logs(found.get(place.block_hash, ()), step.reverted)
            if not told.add(step, logs):
                return
        return


async def filter_changes(ctx: Context, state: FilterState, filters: Filters) -> tuple[list[bytes], FilterState]:
    """What has happened since a filter was polled, and the filter afterwards. Errors: ChainError, StoreError."""
    head = await ctx.head()
    told = _PollResult(state.cursor, filters.limits.results)
    if state.history:
        told.values += await load_history(ctx, state)
    condition = filter_condition(state.asked) if state.kind == LOGS else None
    steps: list[Step] = []

    async def tell() -> None:
        if condition is not None:
            await _add_logs(ctx, condition, steps, told)
            return
        for step in steps:
            shown = b"" if step.reverted else orjson.dumps(eth_json.data(step.key.block_hash))
            if not told.add(step, [shown] if shown else []):
                return

    # a follower that is behind the one polled last has nothing to tell
    if head.seq >= state.cursor.seq:
        async for step in steps_since(ctx, state.cursor, head):
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
            told.cursor = cursor_at_head(head)
    return told.values, replace(state, cursor=told.cursor, history=False)
