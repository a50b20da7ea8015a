"""The actors at a tipset: state trees over the process's cache of nodes, and look-ups by address."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, cast

import orjson

from blockstore.cid import Cid
from chain.actors.codes import check_code
from chain.actors.load import States
from chain.address import Address
from chain.errors import ActorNotFound, Dropped
from chain.ipld.tree_nodes import NodeCache
from chain.network import NetworkRecord
from chain.state.state_tree import Actor, StateTree, UnresolvedAddress
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.long_answers import PacedReader

#: where a process that reads ahead keeps its `RecentActors`
RECENT_ACTORS = "recent_actors"
#: trees whose roots are kept decoded, about 4 KB each: most requests ask about the same tipsets
_STATE_TREES = 256
#: the code of Lotus' "actor not found", which only some methods use
ACTOR_NOT_FOUND = 11


async def states_at(ctx: Context, key: TipsetKey, *, walks: bool = False) -> tuple[Tipset, States]:
    """The tipset, and the actors before its messages; `walks` as in `states_of`. Errors: Missing, NotHeld."""
    tipset = await ctx.tipset(key)
    return tipset, await states_of(ctx, tipset, walks=walks)


async def states_of(ctx: Context, tipset: Tipset, *, walks: bool = False) -> States:
    """The actors before a tipset's messages. With `walks`, reading them lets other requests go on each time."""
    tree = await load_tree(ctx, tipset.parent_state_root, tipset.height, walks=walks)
    return States(tree.reader, tree, ctx.network.version_at(tipset.height), ctx.network.address_prefix)


def node_cache(ctx: Context) -> NodeCache:
    """The process's cache of decoded tree nodes."""
    cache: NodeCache | None = ctx.caches.get("node_cache")
    if cache is None:
        cache = ctx.caches["node_cache"] = NodeCache(ctx.services.cache_sizes.nodes)
    return cache


def actor_not_found(error: ActorNotFound) -> MethodError:
    """The error of methods for which Lotus has a code."""
    return MethodError("actor not found", code=ACTOR_NOT_FOUND)


async def id_address(states: States, address: Address) -> Address:
    """The ID address of `address`. Errors: MethodError with code 11."""
    try:
        return await states.lookup_id(address)
    except ActorNotFound as error:
        raise actor_not_found(error) from error


async def tree_at(ctx: Context, key: TipsetKey) -> StateTree:
    """The actors before a tipset's messages, over the cache of nodes. Errors: Missing, NotHeld, BadObject."""
    tipset = await ctx.tipset(key)
    return await load_tree(ctx, tipset.parent_state_root, tipset.height)


async def load_tree(ctx: Context, root: Cid, epoch: int, *, walks: bool = False) -> StateTree:
    """The actors under a state root, which the network version at `epoch` holds for.

    A tree that `walks` leaves the process's cache of nodes alone, and lets other requests go on at each read. What
    needs the state of an actor of a newer version than this release decodes raises UnknownActors. Errors: Dropped,
    Missing, BadObject.
    """
    network = ctx.network
    kept = await ctx.index.kept()
    if kept.has_dropped_state(epoch):
        raise Dropped(f"state of epoch {epoch}; {kept.text()}")
    if walks:
        return await StateTree.load(PacedReader(ctx), root, None, partial(check_code, network, epoch))
    trees: OrderedDict[tuple[Cid, int], tuple[NetworkRecord, StateTree]] | None = ctx.caches.get("state_trees")
    if trees is None:
        trees = ctx.caches["state_trees"] = OrderedDict()
    known = trees.get((root, epoch))
    if known is not None and known[0] is network:
        trees.move_to_end((root, epoch))
        return known[1]
    check = partial(check_code, network, epoch)
    tree = await StateTree.load(ctx.objects, root, node_cache(ctx), check, ctx.caches.get(RECENT_ACTORS))
    trees[root, epoch] = network, tree
    if len(trees) > _STATE_TREES:
        trees.popitem(last=False)
    return tree


def actor_json(ctx: Context, actor: Actor) -> dict[str, Any]:
    """An actor as Lotus writes it."""
    # its text, not a dictionary: the encoder asks Python about each CID and address in one
    delegated = "null" if actor.delegated is None else f'"{in_prefix(ctx, actor.delegated)}"'
    text = (
        f'{{"Code":{_link_json(actor.code)},"Head":{_link_json(actor.head)},"Nonce":{actor.nonce},'
        f'"Balance":"{actor.balance}","DelegatedAddress":{delegated}}}'
    )
    return cast("dict[str, Any]", orjson.Fragment(text))


def _link_json(cid: Cid) -> str:
    return f'{{"/":"{cid}"}}' if cid else "null"


def in_prefix(ctx: Context, address: Address) -> str:
    """The text of an address with the network's prefix."""
    return address.text(ctx.network.address_prefix)


async def lookup_id(ctx: Context, address: Address, key: TipsetKey) -> Address:
    """The ID address of an address before a tipset's messages. Errors: MethodError with code 11."""
    tree = await tree_at(ctx, key)
    try:
        return await tree.lookup_id(address)
    except ActorNotFound as error:
        raise actor_not_found(error) from error


async def key_address(ctx: Context, tipset: Tipset, address: Address) -> Address:
    """The key or delegated address of an account. Errors: MethodError, ActorNotFound, and those of the account's state.

    An account that this tipset's messages made is found in the state after them, as far as that is known.
    """
    if address.protocol in (1, 3, 4):
        return address
    if address.protocol == 2:
        raise MethodError("cannot resolve actor address to key address")
    if not address:
        raise MethodError("failed to find actor: <empty>")
    before = await load_tree(ctx, tipset.parent_state_root, tipset.height)
    try:
        return await before.account_key(address)
    except (ActorNotFound, UnresolvedAddress) as error:
        after = await ctx.index.post(tipset.key)
        if after is None:
            # snapshots have no such rows
            after = await ctx.index.post_by_child((await ctx.pin_head()).tipset, tipset)
        if after is None or after[0] == tipset.parent_state_root:
            if isinstance(error, ActorNotFound):
                raise ActorNotFound(f"failed to find actor: {in_prefix(ctx, address)}") from error
            raise
    try:
        return await (await load_tree(ctx, after[0], tipset.height + 1)).account_key(address)
    except ActorNotFound as error:
        raise ActorNotFound(f"failed to find actor: {in_prefix(ctx, address)}") from error
