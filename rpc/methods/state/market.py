"""The storage market: balances and deals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from blockstore.cid import Cid
from chain.actors.adt import array_get, array_parts, map_get, map_parts, uint_key
from chain.actors.leaves import LEAVES
from chain.actors.load import MARKET, Loaded, States
from chain.actors.schema import type_of
from chain.address import Address
from chain.ipld.hamt import Hamt
from chain.ipld.objects import ObjectReader
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.lookup.actor_states import states_at
from rpc.lookup.long_answers import PacedReader, object_of
from rpc.params import Integer
from rpc.registry import Cache, Cost, method

DealID = Annotated[int, Integer("abi.DealID", 0, (1 << 64) - 1)]

_BIG = LEAVES["big"]
_PROPOSALS_BITS = 5
_STATES_BITS = 6
_BALANCES_BITS = 6

#: the state of a deal that no sector proves yet
_NO_STATE = {"SectorNumber": 0, "SectorStartEpoch": -1, "LastUpdatedEpoch": -1, "SlashEpoch": -1}


async def market_at(ctx: Context, key: TipsetKey) -> tuple[States, Loaded]:
    """The actors at a tipset, and the market among them."""
    _, states = await states_at(ctx, key)
    return states, await states.load(MARKET, "market")


@method("Filecoin.StateMarketBalance", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_market_balance(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, str]:
    """The market balance of an account in attoFIL, and its locked part."""
    states, market = await market_at(ctx, tipset_key)
    key = bytes(await states.lookup_id(address))
    escrow = await map_get(ctx.objects, market.state["EscrowTable"], key, _BIG, _BALANCES_BITS)
    locked = await map_get(ctx.objects, market.state["LockedTable"], key, _BIG, _BALANCES_BITS)
    return {"Escrow": str(escrow or 0), "Locked": str(locked or 0)}


@method("Filecoin.StateMarketParticipants", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_market_participants(ctx: Context, tipset_key: TipsetKey) -> dict[str, dict[str, str]]:
    """The market balance of each account that has one."""
    _, market = await market_at(ctx, tipset_key)
    reader = PacedReader(ctx)
    prefix = ctx.network.address_prefix
    locked: dict[bytes, int] = {}
    async for part in map_parts(reader, market.state["LockedTable"], _BIG, _BALANCES_BITS):
        await ctx.checkpoint()
        locked.update(part)
    found: dict[str, dict[str, str]] = {}
    async for part in map_parts(reader, market.state["EscrowTable"], _BIG, _BALANCES_BITS):
        await ctx.checkpoint()
        for key, amount in part:
            found[Address.checked(key).text(prefix)] = {"Escrow": str(amount), "Locked": str(locked.get(key, 0))}
    return found


def _deal(market: Loaded, proposal: Any, state: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "Proposal": type_of("market", "DealProposal", market.version).dump(proposal),
        # deal states have a sector number since actors 13; older ones show 0
        "State": dict(_NO_STATE) if state is None else {name: state.get(name, 0) for name in _NO_STATE},
    }


@method("Filecoin.StateMarketDeals", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_market_deals(ctx: Context, tipset_key: TipsetKey) -> dict[str, Any]:
    """All deals by number."""
    _, market = await market_at(ctx, tipset_key)
    return await object_of(
        ctx, _deals(PacedReader(ctx), market), lambda deal: (str(deal[0]), _deal(market, deal[1], deal[2]))
    )


async def _deals(reader: ObjectReader, market: Loaded) -> AsyncIterator[list[tuple[int, Any, Any]]]:
    """(number, proposal, state or None) of all deals, ascending, some at a time. Walks proposals and states in step."""
    proposal = type_of("market", "DealProposal", market.version)
    state = type_of("market", "DealState", market.version)
    states = array_parts(reader, market.state["States"], state, _STATES_BITS)
    ahead: dict[int, Any] = {}
    is_over, reached = False, -1
    async for part in array_parts(reader, market.state["Proposals"], proposal, _PROPOSALS_BITS):
        last = part[-1][0]
        while not is_over and reached < last:
            some = await anext(states, None)
            if some is None:
                is_over = True
            else:
                ahead.update(some)
                reached = some[-1][0]
        yield [(at, found, ahead.pop(at, None)) for at, found in part]
        ahead = {at: found for at, found in ahead.items() if at > last}
    if not is_over:
        # mostly its end: a generator that has not ended is closed by a task of its own
        await anext(states, None)


async def storage_deal(ctx: Context, market: Loaded, deal: int) -> tuple[Any, dict[str, Any] | None]:
    """(proposal, state or None) of a deal. Errors: MethodError (no such deal)."""
    proposal = type_of("market", "DealProposal", market.version)
    state = type_of("market", "DealState", market.version)
    found = await array_get(ctx.objects, market.state["Proposals"], deal, proposal, _PROPOSALS_BITS)
    if found is None:
        raise MethodError(
            f"deal {deal} not found - deal may not have completed sealing before deal proposal start epoch, "
            "or deal may have been slashed"
        )
    return found, await array_get(ctx.objects, market.state["States"], deal, state, _STATES_BITS)


@method("Filecoin.StateMarketStorageDeal", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_market_storage_deal(ctx: Context, deal: DealID, tipset_key: TipsetKey) -> dict[str, Any]:
    """One deal. Errors: no such deal."""
    _, states = await states_at(ctx, tipset_key)
    with error_prefix("failed to load market actor"):
        actor = await states.actor(MARKET)
    with error_prefix("failed to load market actor state"):
        market = await states.state_of(actor, "market")
    return _deal(market, *await storage_deal(ctx, market, deal))


@method("Filecoin.StateMarketProposalPending", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_market_proposal_pending(ctx: Context, proposal: Cid, tipset_key: TipsetKey) -> bool:
    """Whether a proposal waits for its sector to be proven."""
    _, market = await market_at(ctx, tipset_key)
    return await has_key(ctx, market.state["PendingProposals"], bytes(proposal))


async def has_key(ctx: Context, root: Cid, key: bytes) -> bool:
    """Whether a set (a map without values) has a key."""
    missing = object()
    return await (await Hamt.load(ctx.objects, root, bit_width=5)).get(key, missing) is not missing


async def pending_allocation(ctx: Context, market: Loaded, deal: int) -> int:
    """The allocation that a deal waits for, or 0."""
    root = market.state["PendingDealAllocationIds"]
    with error_prefix(f"failed to load allocation id for {deal}"):
        found: int | None = await map_get(ctx.objects, root, uint_key(deal), LEAVES["int"])
    return found or 0


@method("Filecoin.StateGetAllocationIdForPendingDeal", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_get_allocation_id_for_pending_deal(ctx: Context, deal: DealID, tipset_key: TipsetKey) -> int:
    """The allocation that a published deal waits for, or 0."""
    _, market = await market_at(ctx, tipset_key)
    return await pending_allocation(ctx, market, deal)
