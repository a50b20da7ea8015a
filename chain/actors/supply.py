"""Computes the circulating supply over all actors. Walks the whole state tree.

Source: Lotus `chain/stmgr/supply.go`, `GetCirculatingSupply`.
"""

from __future__ import annotations

from typing import Final

from chain.actors.economy import RESERVE, TOTAL_FIL, locked, market_locked
from chain.actors.load import BURNT_FUNDS, CRON, DATACAP, INIT, MARKET, POWER, REWARD, SYSTEM, VERIFREG, States
from chain.address import Address, from_id
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.errors import ChainError
from chain.state.state_tree import Actor

_SAFT: Final = from_id(122)
_EAM: Final = from_id(10)

#: actors whose balance never circulates
_HELD: Final = frozenset((INIT, REWARD, VERIFREG, POWER, SYSTEM, CRON, BURNT_FUNDS, _SAFT, RESERVE, _EAM, DATACAP))
_FREE_KINDS: Final = frozenset(("account", "paymentchannel", "ethaccount", "evm", "placeholder"))


async def all_circulating(
    states: States, height: int, network_version: int, checkpoint: Checkpoint = no_checkpoint
) -> int:
    """attoFIL in circulation at `height`. Errors: ChainError, when the parts are not the whole; of `checkpoint`."""
    circulating = held = 0
    async for address, actor in states.tree.items():
        await checkpoint()
        if not actor.balance:
            continue
        free = await _free(states, address, actor, height, network_version)
        circulating += free
        held += actor.balance - free
    total = circulating + held
    if total != TOTAL_FIL:
        raise ChainError(f"total filecoin didn't add to expected amount: {total} != {TOTAL_FIL}")
    return circulating


async def _free(states: States, address: Address, actor: Actor, height: int, network_version: int) -> int:
    """The part of an actor's balance that circulates."""
    balance: int = actor.balance
    if address in _HELD:
        return 0
    if address == MARKET:
        if network_version >= 23:
            return balance
        return balance - market_locked(await states.state_of(actor, "market"))
    name, _ = await states.kind_of(actor)
    if name in _FREE_KINDS:
        return balance
    if name == "storageminer":
        state = (await states.state_of(actor, "miner")).state
        unlocked: int = balance - state["LockedFunds"] - state["PreCommitDeposits"] - state["InitialPledge"]
        # nothing circulates of a miner that holds less than it locks
        debt: int = state["FeeDebt"]
        return unlocked - debt if unlocked >= 0 else 0
    if name == "multisig":
        state = (await states.state_of(actor, "multisig")).state
        kept = locked(state["InitialBalance"], state["UnlockDuration"], height - state["StartEpoch"])
        return max(0, balance - kept)
    raise ChainError(f"unexpected actor: {address}")
