"""Looks up actors by address, addresses by actor, and the codes of actors in a state tree.

Each answers from the state before a tipset's messages, as Lotus does; `StateAccountKey` alone looks into the
state after them too. Sources: Lotus `node/impl/full/state.go`, `wallet.go`, `chain/stmgr/stmgr.go`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson

from blockstore.cid import Cid
from chain.actors.codes import FIRST_WITH_MANIFEST, builtin_codes, bundle_of, networks_of
from chain.actors.versions import LAST_NETWORK_VERSION, BadNetworkVersion, actors_version, unknown_actors
from chain.address import Address
from chain.address import parse as parse_address
from chain.errors import ActorNotFound, BadAddress, NotFound, NotHeld
from chain.state.actor_ids import ActorIds
from chain.state.state_tree import StateTree
from chain.tipset import TipsetKey
from rpc.context import Context, StateView
from rpc.errors import MethodError, error_prefix
from rpc.lookup.actor_states import actor_json, in_prefix, key_address, load_tree, lookup_id, tree_at
from rpc.lookup.decoded_cache import KeptTexts, decoded_cache
from rpc.lookup.long_answers import PacedReader, object_of
from rpc.params import Integer
from rpc.registry import Cache, Cost, method

#: the view of the actors before the head's messages, for answers in which the network version has no part
_AT_HEAD: Final[StateView] = ("", 0)
NetworkVersion = Annotated[int, Integer("network.Version", 0, (1 << 64) - 1)]


@method("Filecoin.StateGetActor", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_get_actor(ctx: Context, actor: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """An actor's code, head, nonce, balance and delegated address. Errors: actor not found."""
    tree = await tree_at(ctx, tipset_key)
    found = await tree.find(actor, ctx.network.address_prefix)
    if not tipset_key:
        ctx.note_actor(_AT_HEAD, tree, actor, found)
    return actor_json(ctx, found)


@method("Filecoin.WalletBalance", cost=Cost.STATE, cache=Cache.HEAD)
async def wallet_balance(ctx: Context, address: Address) -> str:
    """The balance of an address at the head, in attoFIL. 0 for an address without an actor."""
    tree = await tree_at(ctx, TipsetKey())
    try:
        actor = await tree.get(address)
    except ActorNotFound:
        return "0"
    ctx.note_actor(_AT_HEAD, tree, address, actor)
    return str(actor.balance)


@method("Filecoin.WalletValidateAddress", cost=Cost.FREE, answered="local", cache=Cache.IMMUTABLE)
async def wallet_validate_address(ctx: Context, text: str) -> Address:
    """Parses an address. Errors: go-address' own."""
    try:
        return parse_address(text)
    except BadAddress as error:
        raise MethodError(str(error)) from error


@method("Filecoin.StateLookupID", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_lookup_id(ctx: Context, address: Address, tipset_key: TipsetKey) -> Address:
    """The ID address of an address. Errors: actor not found (code 11)."""
    return await lookup_id(ctx, address, tipset_key)


@method("Filecoin.StateLookupRobustAddress", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_lookup_robust_address(ctx: Context, address: Address, tipset_key: TipsetKey) -> Address:
    """A robust address with this ID, from the init actor's map: the first one there. Errors: no such address."""
    tipset = await ctx.tipset(tipset_key)
    try:
        _ = address.id
    except BadAddress as error:
        raise MethodError(f"failed to decode provided address as id addr: {error}") from error
    tree = await load_tree(ctx, tipset.parent_state_root, tipset.height, walks=True)
    found = await tree.first_robust_address(address)
    if found is None:
        raise NotFound(f"Address {in_prefix(ctx, address)} not found")
    return found


@method("Filecoin.StateAccountKey", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_account_key(ctx: Context, address: Address, tipset_key: TipsetKey) -> Address:
    """The key or delegated address of an account. Errors: no such actor, not an account.

    An account that this tipset's messages made is found in the state after them, as far as that is known.
    """
    return await key_address(ctx, await ctx.tipset(tipset_key), address)


@method("Filecoin.StateListActors", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_list_actors(ctx: Context, tipset_key: TipsetKey) -> list[Any]:
    """The ID addresses of all actors, in the order of the state tree."""
    tipset = await ctx.tipset(tipset_key)
    tree = await load_tree(ctx, tipset.parent_state_root, tipset.height, walks=True)
    texts = KeptTexts(decoded_cache(ctx, "actor_ids"))
    ids = ActorIds(PacedReader(ctx), ctx.network.address_prefix, texts, ctx.reserve)
    return [orjson.Fragment(text) for text in await ids.of(tree.actors.root)]


@method("Filecoin.StateChangedActors", cost=Cost.SCAN, cache=Cache.IMMUTABLE)
async def state_changed_actors(ctx: Context, old: Cid, new: Cid) -> dict[str, Any]:
    """The actors of state `new` that differ from those of state `old` or are new, by ID address."""
    reader = PacedReader(ctx)
    with error_prefix("failed to load old state tree"):
        before = await StateTree.load(reader, old)
    with error_prefix("failed to load new state tree"):
        after = await StateTree.load(reader, new)
    changed = ([(address, actor)] async for address, _, actor in before.diff(after) if actor)
    return await object_of(ctx, changed, lambda one: (in_prefix(ctx, one[0]), actor_json(ctx, one[1])))


def _actors_version(ctx: Context, network_version: int) -> int:
    """Errors: BadNetworkVersion; UnknownActors, for a version that the network has and this release does not."""
    if LAST_NETWORK_VERSION < network_version <= ctx.network.upgrades[-1][1]:
        raise unknown_actors(network_version)
    return actors_version(network_version)


async def _codes_at(ctx: Context, version: int) -> tuple[Cid, dict[str, Cid]] | None:
    """(manifest, code by name) of an actors version. None if neither a bundle nor the head's state has it.

    The bundle is of the network whose codes the head's state has.
    """
    if version < FIRST_WITH_MANIFEST:
        return None
    head = (await ctx.head()).tipset
    tree = await load_tree(ctx, head.parent_state_root, head.height, walks=True)
    codes = await tree.actor_codes()
    found = [networks_of(code) for code in codes.values()]
    for network in sorted(frozenset.intersection(*found)) if found else ():
        bundle = bundle_of(network, version)
        if bundle is not None:
            return bundle.manifest, bundle.actors
    at_head = ctx.network.version_at(head.height - 1)
    if at_head <= LAST_NETWORK_VERSION and actors_version(at_head) == version:
        return await tree.manifest_cid(), codes
    return None


@method("Filecoin.StateActorCodeCIDs", cost=Cost.STATE, cache=Cache.HEAD)
async def state_actor_code_cids(ctx: Context, network_version: NetworkVersion) -> dict[str, Cid]:
    """The code of each built-in actor under a network version, by its name in the manifest."""
    try:
        version = _actors_version(ctx, network_version)
    except BadNetworkVersion as error:
        raise MethodError(f"invalid network version {network_version}: {error}") from error
    if version < FIRST_WITH_MANIFEST:
        return builtin_codes(version)
    found = await _codes_at(ctx, version)
    if found is None:
        raise NotHeld(f"the actor codes of network version {network_version}, actors version {version}")
    return found[1]


@method("Filecoin.StateActorManifestCID", cost=Cost.STATE, cache=Cache.HEAD)
async def state_actor_manifest_cid(ctx: Context, network_version: NetworkVersion) -> Cid:
    """The manifest of the built-in actors under a network version."""
    try:
        version = _actors_version(ctx, network_version)
    except BadNetworkVersion as error:
        raise MethodError("invalid network version") from error
    found = await _codes_at(ctx, version)
    if found is None:
        raise NotFound(f"could not find manifest cid for network version {network_version}, actors version {version}")
    return found[0]
