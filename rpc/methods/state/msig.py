"""Multisig wallets: what is vested, what is pending."""

from __future__ import annotations

from typing import Any

from chain.actors.adt import map_parts, read_int_key
from chain.actors.economy import locked
from chain.actors.load import Loaded
from chain.actors.schema import type_of
from chain.address import Address
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.lookup.actor_states import states_at, states_of
from rpc.registry import Cache, Cost, method

_ACTOR = "failed to load multisig actor"
_STATE = "failed to load multisig actor state"


def locked_balance(state: dict[str, Any], epoch: int) -> int:
    """The attoFIL that the vesting schedule locks at `epoch`."""
    return locked(state["InitialBalance"], state["UnlockDuration"], epoch - state["StartEpoch"])


async def _wallet(ctx: Context, key: TipsetKey, address: Address) -> tuple[int, Loaded]:
    tipset, states = await states_at(ctx, key)
    with error_prefix(_ACTOR):
        actor = await states.actor(address)
    with error_prefix(_STATE):
        return tipset.height, await states.state_of(actor, "multisig")


@method("Filecoin.MsigGetAvailableBalance", cost=Cost.STATE, cache=Cache.TIPSET)
async def msig_get_available_balance(ctx: Context, address: Address, tipset_key: TipsetKey) -> str:
    """attoFIL in a multisig that is not locked by its vesting schedule."""
    height, wallet = await _wallet(ctx, tipset_key, address)
    return str(wallet.actor.balance - locked_balance(wallet.state, height))


@method("Filecoin.MsigGetVestingSchedule", cost=Cost.STATE, cache=Cache.TIPSET)
async def msig_get_vesting_schedule(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """The initial balance of a multisig and its vesting schedule."""
    _, wallet = await _wallet(ctx, tipset_key, address)
    return {
        "InitialBalance": str(wallet.state["InitialBalance"]),
        "StartEpoch": wallet.state["StartEpoch"],
        "UnlockDuration": wallet.state["UnlockDuration"],
    }


@method("Filecoin.MsigGetVested", cost=Cost.STATE, cache=Cache.TIPSET)
async def msig_get_vested(ctx: Context, address: Address, start: TipsetKey, end: TipsetKey) -> str:
    """attoFIL that vested between two tipsets. Errors: the start is after the end."""
    first, last = await ctx.tipset(start), await ctx.tipset(end)
    if first.height > last.height:
        raise MethodError(f"start tipset {first.height} is after end tipset {last.height}")
    if first.height == last.height:
        return "0"
    states = await states_of(ctx, last)
    with error_prefix("failed to load multisig actor at end epoch"):
        actor = await states.actor(address)
    with error_prefix(_STATE):
        wallet = (await states.state_of(actor, "multisig")).state
    return str(locked_balance(wallet, first.height) - locked_balance(wallet, last.height))


@method("Filecoin.MsigGetPending", cost=Cost.STATE, cache=Cache.TIPSET)
async def msig_get_pending(ctx: Context, address: Address, tipset_key: TipsetKey) -> list[dict[str, Any]]:
    """The transactions that wait for approval."""
    _, wallet = await _wallet(ctx, tipset_key, address)
    kind = type_of("multisig", "Transaction", wallet.version)
    root = wallet.state["PendingTxns"]
    parts = map_parts(ctx.objects, root, kind)
    return [{"ID": read_int_key(key)} | kind.dump(found) async for part in parts for key, found in part]
