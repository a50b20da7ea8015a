"""Reads ahead at a new head what requests asked for at the last ones, before somebody asks for it again.

Only caches are filled: an answer is the same with and without it. What is read depends on what was asked
(`RecentActors`, `RecentQuestions`), so that a process that nobody asks reads nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import StoreError
from chain.address import Address
from chain.errors import ChainError
from chain.state.recent_actors import RecentActors
from chain.state.state_tree import Actor, StateTree, actor_key
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import RpcError
from rpc.lookup.actor_states import RECENT_ACTORS, load_tree, node_cache
from rpc.lookup.ahead.recent_questions import Question, recent_questions
from rpc.lookup.eth.blocks import decode_ahead, load_block_json
from rpc.lookup.eth.executed_tipset import PostRoots
from rpc.lookup.eth.paid_fees import all_paid
from rpc.lookup.finality import safe_tipset
from rpc.lookup.gas_premium import estimate_premium
from rpc.lookup.long_answers import PacedReader
from rpc.lotus_json import json_cache

log = logging.getLogger(__name__)

#: actors that are looked up together. All such groups run at the same time, so that each level of the tree is one
#: journey to a far store; each gives way to requests at each level.
_GROUP: Final = 32


async def read_ahead(ctx: Context, actors: Sequence[Address]) -> None:
    """Fill the caches for the head of `ctx`, which is this call's alone. `actors`: to be read.

    Errors: CancelledError; NotHeld (the head's parent).
    """
    head = (await ctx.head()).tipset
    questions = recent_questions(ctx)
    questions.running = ctx
    json_cache(ctx).tipset(head)
    await _try("actors", _actors(ctx, head, actors))
    if not head.height:
        return
    latest = await ctx.index.parent(head)
    steps: tuple[tuple[Question, Callable[[], Awaitable[Any]]], ...] = (
        (Question.BLOCK, lambda: load_block_json(ctx, latest, False)),
        (Question.FULL_BLOCK, lambda: load_block_json(ctx, latest, True)),
        (Question.PREMIUM, lambda: estimate_premium(ctx, 1, head.key)),
        (Question.FEES, lambda: all_paid(ctx, [(latest, _after(head))], has_rewards=True)),
        (Question.PREMIUM_SOON, lambda: estimate_premium(ctx, 10, head.key)),
        (Question.FINALITY, lambda: safe_tipset(ctx)),
    )
    for question, step in steps:
        await ctx.checkpoint()
        if questions.is_wanted(question):
            await _try(question.value, step())
    if questions.is_wanted(Question.BLOCK) or questions.is_wanted(Question.FULL_BLOCK):
        await _try("the next block", decode_ahead(ctx, head))


def _after(child: Tipset) -> PostRoots:
    return PostRoots(child.parent_state_root, child.parent_message_receipts)


async def _try(what: str, step: Awaitable[Any]) -> None:
    """Do one step; what cannot be read now is left to who asks for it, and who is told why."""
    try:
        await step
    except (ChainError, StoreError, RpcError) as error:
        log.debug("%s of a new head cannot be read ahead: %s", what, error)


async def _actors(ctx: Context, head: Tipset, addresses: Sequence[Address]) -> None:
    recent: RecentActors | None = ctx.caches.get(RECENT_ACTORS)
    if recent is None or not addresses:
        return
    root = head.parent_state_root
    # what requests will ask, with its check that the state has not been dropped
    kept = await load_tree(ctx, root, head.height)
    tree = StateTree(PacedReader(ctx), root, kept.version, Cid(kept.actors.root), node_cache(ctx))
    groups = [addresses[at : at + _GROUP] for at in range(0, len(addresses), _GROUP)]
    await asyncio.gather(*(_group(ctx, recent, tree, group) for group in groups))


async def _group(ctx: Context, recent: RecentActors, tree: StateTree, addresses: Sequence[Address]) -> None:
    found = await tree.get_many(addresses)
    actors = {address: actor for address, actor in zip(addresses, found, strict=True) if actor is not None}
    recent.put(tree.root, actors)
    states = _changed_states(ctx, recent.before, actors)
    if states:
        await PacedReader(ctx).get_many(states)


def _changed_states(ctx: Context, before: bytes, actors: dict[Address, Actor]) -> list[Cid]:
    """The state objects of those actors whose last state is in memory, and has changed."""
    cache, objects = node_cache(ctx), ctx.objects
    changed: list[Cid] = []
    for address, actor in actors.items():
        last: Actor | None = cache.get(actor_key(before, address))
        if last is not None and last.head != actor.head and objects.is_cached(last.head):
            changed.append(actor.head)
    return changed
