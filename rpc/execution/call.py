"""One message applied beside the chain, as Lotus' `StateManager.callInternal` does it. Nothing of it is kept.

Source: Lotus `chain/stmgr/call.go`, `chain/vm/fvm.go`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from blockstore.cid import Cid
from chain.actors.load import States
from chain.address import Address
from chain.errors import ActorNotFound, ChainError
from chain.ipld.objects import ObjectReader
from chain.message import BLS, DELEGATED, SECP256K1, Message, SignedMessage, encode_message, encode_signed_message
from chain.state.state_tree import Actor, StateTree
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage
from rpc.context import Context
from rpc.errors import MethodError, RpcError
from rpc.executor import IMPLICIT_GAS, SYSTEM, Applied, Executor, Place, Reward, Step
from rpc.lookup.actor_states import key_address, node_cache
from rpc.lookup.tipset_execution import explicit, place_at, refuse_migration
from rpc.lookup.tipset_inclusion import included_in

BLOCK_GAS: Final = 10_000_000_000
_SIGNATURE: Final = bytes(65)
_PANIC: Final = "runtime error: invalid memory address or nil pointer dereference"


class SenderInvalid(MethodError):
    """The sender is not on chain, or may not send: callers may try again without that check."""


class NodePanics(RpcError):
    """A sender whose key address is an actor ID (the burnt funds' account): a node's method ends in a panic."""

    code = 0

    def __init__(self, method: str = "") -> None:
        text = f"fatal error calling '{method}': panic in rpc method '{method}': {_PANIC}"
        super().__init__(text if method else _PANIC)


class Prior(enum.Enum):
    """Which messages of the tipset are applied first."""

    NONE = enum.auto()
    ALL = enum.auto()
    SAME_SENDER = enum.auto()


@dataclass(frozen=True, slots=True)
class Invocation:
    """A message as it was applied (nonce and gas limit set), and what became of it.

    `before` is the state that it met; `after` the one that it left, where that was asked for.
    """

    message: Message
    applied: Applied
    has_gas_cost: bool
    before: Cid
    after: Cid | None


def gas_cap(ctx: Context) -> int:
    """The most gas that the messages of one request may use (setting `execution_gas_cap`)."""
    cap: int = ctx.extra.get("execution_gas_cap", BLOCK_GAS)
    return cap


def chain_length(message: Message, sender: Address) -> int:
    """The bytes that a message takes on chain with the signature of `sender`'s kind."""
    kind = {1: SECP256K1, 3: BLS, 4: DELEGATED}.get(sender[0])
    if kind is None or kind == BLS:
        return len(encode_message(message))
    return len(encode_signed_message(SignedMessage(message, (kind, _SIGNATURE))))


async def call(
    ctx: Context,
    executor: Executor,
    message: Message,
    tipset: Tipset,
    *,
    root: Cid | None = None,
    prior: Prior,
    checks_gas: bool,
    skips_sender_check: bool = False,
    tracing: bool = False,
    keeps_state: bool = False,
) -> Invocation:
    """Apply a message at a tipset: on `root`, or on the tipset's parent state after the messages `prior`.

    With `keeps_state`, its state and its events are returned too.

    Errors: SenderInvalid, MethodError, NotHeld, Unavailable.
    """
    if tipset.height > 0:
        floor = tipset.height if root is not None else (await ctx.index.parent(tipset)).height
        refuse_migration(ctx.network, floor, tipset.height + 1)
    base = tipset.parent_state_root if root is None else root
    place = place_at(ctx, tipset, base, tipset.height, tipset.min_timestamp, tracing=tracing)
    before = await _prior_steps(ctx, tipset, message, prior)
    if before:
        run = await executor.run(replace(place, tracing=False), before, keep_state=True)
        assert run.root is not None
        place = replace(place, root=run.root, supply_root=base)
    sender = Address(message.from_)
    # the executor alone has the state that a run made; others are stored, and this process caches them
    reader: ObjectReader = executor if before else ctx.objects
    actor, created = await _sender(ctx, reader, place, sender, skips_sender_check)
    message = replace(message, nonce=0 if actor is None else actor.nonce)
    if not message.gas_fee_cap:
        # gas is free: the machine is made anew on this state, without a base fee
        place = replace(place, base_fee=0, supply_root=None)
    steps: list[Step | Reward] = list(created)
    if not checks_gas:
        message = replace(message, gas_limit=IMPLICIT_GAS)
        steps = [*steps, Step(encode_message(message), 0, implicit=True, gas_cap=gas_cap(ctx), events=keeps_state)]
    else:
        key = sender if skips_sender_check else await key_of(ctx, tipset, sender)
        if key[0] not in (1, 3, 4):
            raise NodePanics
        is_implicit = skips_sender_check and not created
        length = chain_length(message, key)
        steps = [
            *steps,
            Step(encode_message(message), length, implicit=is_implicit, gas_cap=gas_cap(ctx), events=keeps_state),
        ]
    run = await executor.run(place, steps, keep_state=keeps_state, objects=keeps_state)
    ctx.objects.remember(dict(run.objects))
    return Invocation(message, run.applied[-1], checks_gas, place.root, run.root)


async def _prior_steps(ctx: Context, tipset: Tipset, message: Message, prior: Prior) -> list[Step]:
    if prior is Prior.NONE:
        return []
    messages: Sequence[IncludedMessage] = await included_in(ctx, tipset)
    if prior is Prior.SAME_SENDER:
        messages = [one for one in messages if one.message.from_ == message.from_]
    return [explicit(one) for one in messages]


async def _sender(
    ctx: Context, reader: ObjectReader, place: Place, sender: Address, may_lack: bool
) -> tuple[Actor | None, list[Step]]:
    """The sender's actor, or the step that makes a placeholder of it."""
    tree = await StateTree.load(reader, place.root, node_cache(ctx))
    states = States(reader, tree, place.network_version, ctx.network.address_prefix)
    try:
        return await states.tree.get(sender), []
    except ActorNotFound:
        if not may_lack:
            text = f"sender {sender.text(ctx.network.address_prefix)} not found on chain: sender validation failed"
            raise SenderInvalid(text) from None
    create = Message(0, sender, SYSTEM, 0, 0, IMPLICIT_GAS, 0, 0, 0, b"")
    return None, [Step(encode_message(create), 0, implicit=True)]


async def key_of(ctx: Context, tipset: Tipset, sender: Address) -> Address:
    """The key or delegated address of a sender. Errors: MethodError."""
    try:
        return await key_address(ctx, tipset, sender)
    except (ChainError, MethodError) as error:
        raise MethodError(f"could not resolve key: {error}") from None
