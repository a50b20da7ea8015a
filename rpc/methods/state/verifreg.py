"""The verified registry and the datacap token: verifiers, clients, allocations, claims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from blockstore.cid import Cid
from chain.actors.adt import id_key, map_get, map_parts, read_uint_key, uint_key
from chain.actors.leaves import LEAVES, Type
from chain.actors.load import DATACAP, VERIFREG, Loaded
from chain.actors.methods import OldActors
from chain.actors.schema import type_of
from chain.actors.versions import FIRST_VERSION
from chain.address import Address
from chain.ipld.objects import ObjectReader
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import error_prefix
from rpc.lookup.actor_states import id_address, states_at
from rpc.lookup.long_answers import PacedReader, object_of
from rpc.methods.state.market import DealID, market_at, pending_allocation, storage_deal
from rpc.params import Integer
from rpc.registry import Cache, Cost, method

AllocationId = Annotated[int, Integer("verifreg.AllocationId", 0, (1 << 64) - 1)]
ClaimId = Annotated[int, Integer("verifreg.ClaimId", 0, (1 << 64) - 1)]

_BIG = LEAVES["big"]
_LINK = LEAVES["cid"]

#: units of the datacap token per byte
_GRANULARITY = 10**18


async def _registry(ctx: Context, key: TipsetKey, address: Address | None = None) -> tuple[Loaded, bytes]:
    """The registry, and the key of the entries of an account. The key is empty without `address`."""
    _, states = await states_at(ctx, key)
    owner = b"" if address is None else id_key(await id_address(states, address))
    return await states.load(VERIFREG, "verifreg"), owner


async def _inner(ctx: Context, registry: Loaded, table: str, owner: bytes) -> Cid | None:
    found: Cid | None = await map_get(ctx.objects, registry.state[table], owner, _LINK)
    return found


async def _one(ctx: Context, registry: Loaded, table: str, name: str, owner: bytes, at: int) -> dict[str, Any] | None:
    root = await _inner(ctx, registry, table, owner)
    if root is None:
        return None
    kind = type_of("verifreg", name, registry.version)
    found = await map_get(ctx.objects, root, uint_key(at), kind)
    if found is None:
        return None
    shown: dict[str, Any] = kind.dump(found)
    return shown


async def _all_entries(
    reader: ObjectReader, registry: Loaded, table: str, kind: Type
) -> AsyncIterator[list[tuple[bytes, Any]]]:
    """(number as key, entry) of all accounts' allocations or claims, some at a time."""
    async for roots in map_parts(reader, registry.state[table], _LINK):
        for _, root in roots:
            async for part in map_parts(reader, root, kind):
                yield part


async def _of_owner(ctx: Context, registry: Loaded, table: str, name: str, owner: bytes) -> dict[str, Any]:
    root = await _inner(ctx, registry, table, owner)
    if root is None:
        return {}
    kind = type_of("verifreg", name, registry.version)
    return await object_of(ctx, map_parts(PacedReader(ctx), root, kind), partial(_shown, kind))


async def _all(ctx: Context, registry: Loaded, table: str, name: str) -> dict[str, Any]:
    kind = type_of("verifreg", name, registry.version)
    return await object_of(ctx, _all_entries(PacedReader(ctx), registry, table, kind), partial(_shown, kind))


def _shown(kind: Type, entry: tuple[bytes, Any]) -> tuple[str, Any]:
    return str(read_uint_key(entry[0])), kind.dump(entry[1])


@method("Filecoin.StateGetAllocation", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_get_allocation(
    ctx: Context, client: Address, allocation: AllocationId, tipset_key: TipsetKey
) -> dict[str, Any] | None:
    """A client's allocation, or null. Errors: actor not found (11)."""
    registry, owner = await _registry(ctx, tipset_key, client)
    return await _one(ctx, registry, "Allocations", "Allocation", owner, allocation)


@method("Filecoin.StateGetAllocations", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_get_allocations(ctx: Context, client: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """A client's allocations by number. Errors: actor not found (11)."""
    registry, owner = await _registry(ctx, tipset_key, client)
    return await _of_owner(ctx, registry, "Allocations", "Allocation", owner)


@method("Filecoin.StateGetAllAllocations", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_get_all_allocations(ctx: Context, tipset_key: TipsetKey) -> dict[str, Any]:
    """Every allocation by number."""
    registry, _ = await _registry(ctx, tipset_key)
    return await _all(ctx, registry, "Allocations", "Allocation")


@method("Filecoin.StateGetAllocationForPendingDeal", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_get_allocation_for_pending_deal(
    ctx: Context, deal: DealID, tipset_key: TipsetKey
) -> dict[str, Any] | None:
    """The allocation that a published deal waits for, or null."""
    _, market = await market_at(ctx, tipset_key)
    allocation = await pending_allocation(ctx, market, deal)
    if not allocation:
        return None
    proposal, _ = await storage_deal(ctx, market, deal)
    registry, owner = await _registry(ctx, tipset_key, proposal["Client"])
    return await _one(ctx, registry, "Allocations", "Allocation", owner, allocation)


@method("Filecoin.StateGetClaim", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_get_claim(
    ctx: Context, provider: Address, claim: ClaimId, tipset_key: TipsetKey
) -> dict[str, Any] | None:
    """A provider's claim, or null. Errors: actor not found (11)."""
    registry, owner = await _registry(ctx, tipset_key, provider)
    return await _one(ctx, registry, "Claims", "Claim", owner, claim)


@method("Filecoin.StateGetClaims", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_get_claims(ctx: Context, provider: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """A provider's claims by number. Errors: actor not found (11)."""
    registry, owner = await _registry(ctx, tipset_key, provider)
    return await _of_owner(ctx, registry, "Claims", "Claim", owner)


@method("Filecoin.StateGetAllClaims", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_get_all_claims(ctx: Context, tipset_key: TipsetKey) -> dict[str, Any]:
    """Every claim by number."""
    registry, _ = await _registry(ctx, tipset_key)
    return await _all(ctx, registry, "Claims", "Claim")


@method("Filecoin.StateVerifierStatus", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_verifier_status(ctx: Context, address: Address, tipset_key: TipsetKey) -> str | None:
    """The bytes that a verifier may still grant. null for another account. Errors: actor not found (11)."""
    _, states = await states_at(ctx, tipset_key)
    actor = await states.actor(VERIFREG)
    key = await id_address(states, address)
    id_key(key)
    with error_prefix("failed to load verified registry state"):
        registry = await states.state_of(actor, "verifreg")
    cap = await map_get(ctx.objects, registry.state["Verifiers"], bytes(key), _BIG)
    return None if cap is None else str(cap)


@method("Filecoin.StateVerifiedClientStatus", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_verified_client_status(ctx: Context, address: Address, tipset_key: TipsetKey) -> str | None:
    """The datacap of a client in bytes. null for an account without one. Errors: actor not found (11)."""
    _, states = await states_at(ctx, tipset_key)
    key = id_key(await id_address(states, address))
    version = states.actors_version
    if version < FIRST_VERSION:  # datacap was the registry's own then
        raise OldActors("verifiedregistry", version)
    actor = await states.actor(DATACAP)
    with error_prefix("failed to load datacap actor state"):
        token = (await states.state_of(actor, "datacap")).state["Token"]
    cap = await map_get(ctx.objects, token["Balances"], key, _BIG, token["HamtBitWidth"])
    return None if cap is None else str(cap // _GRANULARITY)


@method("Filecoin.StateVerifiedRegistryRootKey", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_verified_registry_root_key(ctx: Context, tipset_key: TipsetKey) -> Address:
    """The account that appoints verifiers."""
    registry, _ = await _registry(ctx, tipset_key)
    root: Address = registry.state["RootKey"]
    return root
