"""Randomness of tickets and of the beacon. Source: Lotus `node/impl/full/state.go`, `chain/rand`."""

from __future__ import annotations

from typing import Annotated, Any

from chain.consensus.beacon import beacon_entry, blake2b_256, draw_randomness, ticket_digest_at
from chain.errors import BadObject, NotFound, NotHeld
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.tipsets import load_tipset, read_tipset
from rpc.params import Integer
from rpc.registry import V0, Cache, Cost, method

Personalization = Annotated[int, Integer("crypto.DomainSeparationTag", -(1 << 63), (1 << 63) - 1)]


@method("Filecoin.StateGetRandomnessFromTickets", cost=Cost.CHAIN, cache=Cache.TIPSET)
async def state_get_randomness_from_tickets(
    ctx: Context, personalization: Personalization, epoch: int, entropy: bytes, key: TipsetKey
) -> bytes:
    """32 bytes drawn from the chain's tickets at an epoch, as seen from a tipset. Errors: NotHeld."""
    try:
        # an empty key is no tipset here
        tipset = await load_tipset(ctx, key)
    except (NotFound, BadObject) as error:
        raise MethodError(f"loading tipset key: {error}") from error
    base = await ticket_digest_at(ctx.index, ctx.network, tipset, epoch)
    return draw_randomness(base, personalization, epoch, entropy)


@method("Filecoin.StateGetRandomnessFromBeacon", cost=Cost.CHAIN, cache=Cache.TIPSET)
async def state_get_randomness_from_beacon(
    ctx: Context, personalization: Personalization, epoch: int, entropy: bytes, key: TipsetKey
) -> bytes:
    """32 bytes drawn from the beacon entry of an epoch, as seen from a tipset. Errors: NotHeld."""
    _, data = await beacon_entry(ctx.index, ctx.network, await read_tipset(ctx, key), epoch)
    return draw_randomness(blake2b_256(data), personalization, epoch, entropy)


@method("Filecoin.StateGetRandomnessDigestFromTickets", cost=Cost.CHAIN, cache=Cache.TIPSET)
async def state_get_randomness_digest_from_tickets(ctx: Context, epoch: int, key: TipsetKey) -> bytes:
    """The digest that randomness of the tickets at an epoch is drawn from. Errors: NotHeld."""
    return await ticket_digest_at(ctx.index, ctx.network, await read_tipset(ctx, key), epoch)


@method("Filecoin.StateGetRandomnessDigestFromBeacon", cost=Cost.CHAIN, cache=Cache.TIPSET)
async def state_get_randomness_digest_from_beacon(ctx: Context, epoch: int, key: TipsetKey) -> bytes:
    """The digest that randomness of the beacon at an epoch is drawn from. Errors: NotHeld."""
    _, data = await beacon_entry(ctx.index, ctx.network, await read_tipset(ctx, key), epoch)
    return blake2b_256(data)


@method("Filecoin.StateGetBeaconEntry", cost=Cost.CHAIN, cache=Cache.NEVER)
async def state_get_beacon_entry(ctx: Context, epoch: int) -> dict[str, Any]:
    """The beacon entry of an epoch. A full node answers for an epoch above the head. Errors: NotHeld."""
    head = (await ctx.head()).tipset
    if epoch > head.height:
        if ctx.node is None:
            raise NotHeld(f"the beacon entry of epoch {epoch}: the head is at {head.height}")
        result: dict[str, Any] = await ctx.node.call("Filecoin.StateGetBeaconEntry", [epoch])
        return result
    round_, data = await beacon_entry(ctx.index, ctx.network, head, max(epoch, 0))
    return {"Round": round_, "Data": data or None}


@method("Filecoin.BeaconGetEntry", versions=V0, cost=Cost.CHAIN, cache=Cache.NEVER)
async def beacon_get_entry(ctx: Context, epoch: int) -> dict[str, Any]:
    """The v0 spelling of `StateGetBeaconEntry`. Errors: NotHeld."""
    return await state_get_beacon_entry(ctx, epoch)


@method("Filecoin.ChainGetRandomnessFromTickets", versions=V0, cache=Cache.TIPSET)
async def chain_get_randomness_from_tickets(
    ctx: Context, key: TipsetKey, personalization: Personalization, epoch: int, entropy: bytes
) -> bytes:
    """As `StateGetRandomnessFromTickets`, with the tipset first."""
    return await state_get_randomness_from_tickets(ctx, personalization, epoch, entropy, key)


@method("Filecoin.ChainGetRandomnessFromBeacon", versions=V0, cache=Cache.TIPSET)
async def chain_get_randomness_from_beacon(
    ctx: Context, key: TipsetKey, personalization: Personalization, epoch: int, entropy: bytes
) -> bytes:
    """As `StateGetRandomnessFromBeacon`, with the tipset first."""
    return await state_get_randomness_from_beacon(ctx, personalization, epoch, entropy, key)
