"""What an execution changes of the accounts that Ethereum's clients see: balance, nonce, code, storage.

The accounts are those that differ between the two states, and those that were called. A contract that destroyed itself
has no code and no storage, as `eth_getCode` and `eth_getStorageAt` have it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Final

from blockstore.cid import Cid
from chain.actors.load import States
from chain.address import Address, from_id
from chain.checkpoint import Checkpoint
from chain.errors import ActorNotFound
from chain.eth.types import eth_address, own_eth_address
from chain.ipld.kamt import Kamt, diff
from chain.ipld.tree_nodes import NodeCache
from chain.state.state_tree import Actor
from rpc.context import Context
from rpc.errors import LimitExceeded, limit_data
from rpc.executor import Applied, trace_parts
from rpc.lookup.actor_states import load_tree, node_cache
from rpc.lookup.eth.contracts import load_contract

#: slots and accounts of one answer
_MAX_ENTRIES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Account:
    """An account in one state. `code` is empty and `storage` None for all but contracts that live."""

    balance: int
    nonce: int
    is_contract: bool = False
    code: bytes = b""
    storage: bytes | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it is a contract that has destroyed itself."""
        return self.is_contract and self.storage is None


@dataclass(frozen=True, slots=True)
class Change:
    """An account before and after; `slots` has (before, after) of the storage slots that differ, 0 for none."""

    address: bytes
    before: Account | None
    after: Account | None
    slots: dict[int, tuple[int, int]] = field(default_factory=dict)


async def changes(ctx: Context, before: Cid, after: Cid, epoch: int, called: Iterable[int]) -> AsyncIterator[Change]:
    """The accounts that differ between two states, and those of the actors `called`, by actor ID.

    Errors: LimitExceeded, NotHeld, Missing.
    """
    old, new = await load_tree(ctx, before, epoch), await load_tree(ctx, after, epoch)
    actors: dict[int, tuple[Actor | None, Actor | None]] = {}
    async for address, one, other in old.diff(new):
        await ctx.checkpoint()
        actors[address.id] = one, other
        _bound(len(actors))
    for actor_id in called:
        if actor_id not in actors:
            actor = await _actor(States(ctx.objects, old, 0), actor_id)
            actors[actor_id] = actor, actor
    version = ctx.network.version_at(epoch)
    prefix = ctx.network.address_prefix
    states = States(ctx.objects, old, version, prefix), States(ctx.objects, new, version, prefix)
    left = _MAX_ENTRIES
    for actor_id, (one, other) in sorted(actors.items()):
        await ctx.checkpoint()
        accounts = await _account(ctx, states[0], one), await _account(ctx, states[1], other)
        slots: dict[int, tuple[int, int]] = {}
        async for slot, value, changed in _slots(ctx, *accounts):
            await ctx.checkpoint()
            slots[slot] = value, changed
            _bound(len(slots) + _MAX_ENTRIES - left)
        left -= len(slots)
        yield Change(_address(actor_id, other or one), *accounts, slots)


async def called_actors(applied: Applied, checkpoint: Checkpoint) -> set[int]:
    """The IDs of the actors that a message called, and of the callers."""
    found: set[int] = set()
    for events in trace_parts(applied.trace):
        found.update(event[1] for event in events if event[0] in ("actor", "call"))
        await checkpoint()
    return found


async def _actor(states: States, actor_id: int) -> Actor | None:
    try:
        return await states.tree.get(from_id(actor_id))
    except ActorNotFound:
        return None


async def _account(ctx: Context, states: States, actor: Actor | None) -> Account | None:
    if actor is None:
        return None
    found = await load_contract(states, actor)
    if found is None:
        return Account(actor.balance, actor.nonce)
    state = found.state
    if state["Tombstone"] is not None:
        return Account(actor.balance, 0, True)
    code = await ctx.objects.get(Cid(state["Bytecode"]))
    return Account(actor.balance, state["Nonce"], True, code, state["ContractState"])


async def _slots(ctx: Context, before: Account | None, after: Account | None) -> AsyncIterator[tuple[int, int, int]]:
    """(slot, value before, value after) of what differs."""
    old = None if before is None else before.storage
    new = None if after is None else after.storage
    cache: NodeCache = node_cache(ctx)
    if old is not None and new is not None:
        async for slot, value, changed in diff(Kamt(ctx.objects, old, cache), Kamt(ctx.objects, new, cache)):
            yield slot, value, changed
    elif old is not None:
        async for slot, value in Kamt(ctx.objects, old).items():
            yield slot, value, 0
    elif new is not None:
        async for slot, value in Kamt(ctx.objects, new).items():
            yield slot, 0, value


def _address(actor_id: int, actor: Actor | None) -> bytes:
    delegated: Address | None = None if actor is None else actor.delegated
    own = None if delegated is None else own_eth_address(delegated)
    return eth_address(from_id(actor_id)) if own is None else own


def _bound(count: int) -> None:
    if count > _MAX_ENTRIES:
        text = f"the execution changes more than {_MAX_ENTRIES} accounts or storage slots"
        raise LimitExceeded(text, limit_data("state_changes", _MAX_ENTRIES, count))
