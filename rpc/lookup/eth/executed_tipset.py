"""A tipset's messages with their receipts, and the roots of the state and receipts *after* it.

The header of any child names the roots. Messages and receipts of a tipset never change: they are cached decoded,
bounded by bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.errors import BadObject, NotHeld
from chain.message import Receipt
from chain.state.tipset_events import read_receipts
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage
from rpc.context import Context
from rpc.errors import Unavailable
from rpc.eth_json import Place
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.block_parameter import block_hash
from rpc.lookup.long_answers import PacedReader
from rpc.lookup.self_check import check_post, executed_roots
from rpc.lookup.tipset_inclusion import included_in
from rpc.missing_objects import not_held

#: the head of which no child was seen, among what a process keeps: (sequence number, key)
_CHILDLESS: Final = "childless_head"
#: bytes that a decoded receipt takes beside its return value
_OVERHEAD: Final = 600


@dataclass(frozen=True, slots=True)
class PostRoots:
    """The roots of the state after a tipset and of its messages' receipts."""

    state: Cid
    receipts: Cid


@dataclass(frozen=True, slots=True)
class Executed:
    """A tipset's messages in the order of execution, with their receipts."""

    tipset: Tipset
    post: PostRoots
    messages: Sequence[IncludedMessage]
    receipts: Sequence[Receipt]

    def place(self, index: int) -> Place:
        """The block hash, epoch and index of a message."""
        return Place(block_hash(self.tipset), self.tipset.height, index)


# --- messages and receipts -----------------------------------------------------------------------------


async def find_post_roots(ctx: Context, tipset: Tipset) -> PostRoots | None:
    """What is there after a tipset. Known from a child (at most one row, usually cached), else executed; else None.

    That the head has no child is read once a head: `pending` asks for it again and again. What a child names is a
    function of the tipset. That there is none depends on the head, and what is executed here may yet prove wrong.
    """
    newest = await ctx.pin_head()
    head = newest.tipset
    seen = (newest.seq, tipset.key) if tipset.key == head.key else None
    if seen is None or ctx.caches.get(_CHILDLESS) != seen:
        found = await ctx.index.post(tipset.key)
        if found is not None:
            check_post(ctx.services, tipset, found)
            return PostRoots(*found)
        if seen is not None:
            ctx.caches[_CHILDLESS] = seen
    found = await ctx.index.post_by_child(head, tipset)
    if found is not None:
        return PostRoots(*found)
    await ctx.head()
    if ctx.executor is None:
        return None
    try:
        return PostRoots(*await executed_roots(ctx, ctx.executor, tipset))
    except (NotHeld, Unavailable):
        return None


async def load_receipts(ctx: Context, tipset: Tipset, post: PostRoots) -> list[Receipt]:
    """The receipts of a tipset's messages. Errors: NotHeld (a snapshot carries none)."""
    try:
        return await read_receipts(PacedReader(ctx), post.receipts, ctx.checkpoint)
    except Missing as error:
        raise not_held(
            ctx.objects, error, f"the receipts of the tipset at epoch {tipset.height}", ctx.index.known_kept.text()
        ) from None


async def load_executed(ctx: Context, tipset: Tipset, post: PostRoots) -> Executed:
    """A tipset's messages and receipts. Errors: NotHeld, BadObject (not as many of one as of the other)."""
    cache = decoded_cache(ctx, "eth_executed")
    kept = cache.get(tipset.key)
    if kept is not None:
        found: Executed = kept[0]
        return found
    messages = await included_in(ctx, tipset)
    receipts = await load_receipts(ctx, tipset, post)
    if len(messages) != len(receipts):
        raise BadObject(f"receipts and message array lengths didn't match for tipset: {tipset.key}")
    found = Executed(tipset, post, messages, receipts)
    keep(cache, tipset.key, found, _OVERHEAD * (len(messages) + 1) + sum(len(one.return_) for one in receipts))
    return found
