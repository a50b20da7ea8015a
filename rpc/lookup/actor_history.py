"""When an actor came to be, and in which epochs its state changed.

The state at an epoch is the one before the messages of that epoch's tipset, as `StateGetActor` answers for it. So a
change at epoch E was made by the messages of the tipset before E.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.address import Address
from chain.block import decode_header
from chain.consensus.ancestry import Ancestor
from chain.errors import ActorNotFound, Dropped, NotHeld
from chain.index.chain_index import HELD_STATE
from chain.index.oldest import oldest_held
from chain.state.state_tree import Actor, StateTree, actor_in_each
from chain.tipset import Tipset
from rpc.context import Context
from rpc.lookup.actor_states import load_tree
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.long_answers import PacedReader

#: the init actor gives IDs from here on to new actors; lower ones are those of built-in actors
_FIRST_GIVEN_ID: Final = 100
#: tipsets whose states are read together, and how many such groups at once
_GROUP: Final = 64
_GROUPS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Created:
    """The first tipset before whose messages an actor exists; `address`: the actor's ID address."""

    address: Address
    tipset: Tipset


async def created_at(ctx: Context, head: Tipset, address: Address) -> Created:
    """Where an actor of the chain of `head` began to exist, also one that has been deleted since.

    The IDs that the init actor has given only grow: that tells for every epoch whether an ID was given by then. For
    built-in actors, the search looks for the actor itself. Errors: ActorNotFound, NotHeld (the state of an epoch that
    decides).
    """
    try:
        tree = await load_tree(ctx, head.parent_state_root, head.height)
        actor_id = await tree.lookup_id(address)
        if not await _exists(tree, actor_id):
            raise ActorNotFound
    except Missing:
        raise NotHeld(f"state of epoch {head.height}") from None
    known: dict[int, bool | None] = {}

    async def is_there(epoch: int) -> bool:
        known[epoch] = await _exists_at(ctx, head, epoch, actor_id)
        return known[epoch] is True

    epoch = await ctx.services.lookup.first(0, head.height, is_there)
    if epoch and known.get(epoch - 1) is None:
        raise NotHeld(f"state of epoch {epoch - 1}, where the actor may have been already; held from epoch {epoch}")
    return Created(actor_id, await ctx.index.at_height(head, epoch))


async def _exists(tree: StateTree, actor_id: Address) -> bool:
    if actor_id.id >= _FIRST_GIVEN_ID:
        return (await tree.init_state()).next_id > actor_id.id
    try:
        await tree.get(actor_id)
    except ActorNotFound:
        return False
    return True


async def _exists_at(ctx: Context, head: Tipset, epoch: int, actor_id: Address) -> bool | None:
    """None where the state of the epoch is not held."""
    try:
        tipset = await ctx.index.at_height(head, epoch)
        return await _exists(await load_tree(ctx, tipset.parent_state_root, tipset.height), actor_id)
    except (Missing, NotHeld):
        return None


async def changed_at(ctx: Context, base: Tipset, head: Tipset, address: Address) -> list[int]:
    """The epochs above `base`, up to `head`, at which the actor's head is another than at the tipset before; rising.

    An actor that appears or disappears has changed. Every state is compared with the one before it: one that changes
    and changes back is found. Errors: ActorNotFound (at `head` no actor ever had the robust address), NotHeld.
    """
    try:
        actor_id = await (await load_tree(ctx, head.parent_state_root, head.height)).lookup_id(address)
    except Missing:
        raise NotHeld(f"state of epoch {head.height}") from None
    kept = await ctx.index.kept()
    if kept.has_dropped_state(base.height):
        raise Dropped(f"state of epoch {base.height}; {kept.text()}")
    above = await ancestry_of(ctx).tipsets_between(head, base.height + 1, head.height)
    tipsets = [Ancestor.of(base), *above]
    places = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def group(at: int) -> list[Actor | None]:
        async with places:
            return await _actors_of(ctx, head, tipsets[at : at + _GROUP], actor_id)

    tasks: list[asyncio.Task[list[Actor | None]]] = []
    try:
        async with asyncio.TaskGroup() as running:
            tasks += [running.create_task(group(at)) for at in range(0, len(tipsets), _GROUP)]
    except* Exception as errors:
        # one of them says what is wrong
        raise errors.exceptions[0] from None
    heads = [None if actor is None else actor.head for task in tasks for actor in task.result()]
    return [tipset.height for tipset, (old, new) in zip(above, pairwise(heads), strict=True) if old != new]


async def _actors_of(ctx: Context, head: Tipset, tipsets: Sequence[Ancestor], actor_id: Address) -> list[Actor | None]:
    """The actor at each of some tipsets of the chain of `head`. Errors: NotHeld."""
    reader = PacedReader(ctx)
    try:
        blocks = [tipset.key.cids[0] for tipset in tipsets]
        headers = [decode_header(cid, raw) for cid, raw in zip(blocks, await reader.get_many(blocks), strict=True)]
    except Missing:
        raise NotHeld(f"the chain at epoch {tipsets[-1].height} and below") from None
    roots = [header.parent_state_root for header in headers]
    try:
        return await actor_in_each(reader, roots, actor_id)
    except Missing as error:
        kept_from = (await ctx.index.kept()).state
        missing = await _first_missing(ctx, [tipset.height for tipset in tipsets], roots, actor_id)
        lowest = await oldest_held(ctx.index, ctx.services.lookup, head, HELD_STATE, kept_from)
        held = "" if missing is None or lowest is None or lowest <= missing else f"; held from epoch {lowest}"
        raise NotHeld(f"state of epoch {tipsets[0].height if missing is None else missing}{held}") from error


async def _first_missing(ctx: Context, epochs: Sequence[int], roots: Sequence[Cid], actor_id: Address) -> int | None:
    reader = PacedReader(ctx)
    for epoch, root in zip(epochs, roots, strict=True):
        try:
            await actor_in_each(reader, [root], actor_id)
        except Missing:
            return epoch
    return None
