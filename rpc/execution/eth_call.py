"""`eth_call` and `eth_estimateGas`, executed here. Source: Lotus `node/impl/eth/gas.go`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from blockstore.cid import Cid
from chain.actors.codes import known_code
from chain.actors.load import kind_of_code
from chain.address import Address
from chain.errors import ActorNotFound, BadObject, NotHeld
from chain.eth.transaction import EAM
from chain.ipld.dag_cbor import decode
from chain.message import Message
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import ExecutionReverted, MethodError, OutOfGas
from rpc.execution.bare_call import call_on
from rpc.execution.call import BLOCK_GAS, Invocation, Prior, SenderInvalid, call
from rpc.execution.gas import estimate_gas_limit, estimate_message_gas, overestimated, search_gas
from rpc.execution.revert import SENDER_INVALID, reverted
from rpc.executor import Executor, Outcome
from rpc.lookup.actor_states import states_of
from rpc.lookup.eth.executed_tipset import find_post_roots

_EVM: Final = "evm"
#: the first network version with machines that run calls one after the other
FIRST_OF_CALLS: Final = 21


async def eth_call_result(ctx: Context, executor: Executor, message: Message, tipset: Tipset) -> bytes:
    """What a call returns after a tipset. Errors: ExecutionReverted, MethodError, NotHeld, Unavailable."""
    done = await _apply(ctx, executor, message, tipset)
    if message.to == EAM or not done.return_:
        return b""
    try:
        value = decode(done.return_)
    except BadObject as error:
        raise MethodError(str(error)) from None
    if type(value) is not bytes:
        raise MethodError("expected byte array")
    return value


async def state_after(ctx: Context, tipset: Tipset) -> Cid:
    """The state after a tipset. Errors: NotHeld."""
    post = await find_post_roots(ctx, tipset)
    if post is None:
        raise NotHeld(f"the state after the tipset at epoch {tipset.height}")
    return post.state


async def _apply(ctx: Context, executor: Executor, message: Message, tipset: Tipset) -> Outcome:
    """A message on a tipset's post-state. A sender that may not send, or is not there, sends all the same."""
    if ctx.network.version_at(tipset.height) < FIRST_OF_CALLS:
        applied = (await simulate(ctx, executor, message, tipset, tracing=False)).applied
        if applied.exit_code:
            raise reverted(applied)
        return Outcome(applied.exit_code, applied.return_, applied.gas_used, applied.failure, False, 0)
    root = await state_after(ctx, tipset)
    done = None
    with contextlib.suppress(SenderInvalid):
        done = await call_on(ctx, executor, message, tipset, root)
    if done is None or done.exit_code == SENDER_INVALID:
        done = await call_on(ctx, executor, message, tipset, root, skips_sender_check=True)
    if done.exit_code:
        raise reverted(done)
    return done


async def simulate(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, *, tracing: bool = True
) -> Invocation:
    """As `eth_call_result`; a failure is no error. With `tracing`, the state after it can be read for a while.

    Errors: MethodError, NotHeld, Unavailable.
    """
    root = await state_after(ctx, tipset)

    async def apply(*, skips_sender_check: bool) -> Invocation:
        return await call(
            ctx, executor, message, tipset, root=root, prior=Prior.NONE, checks_gas=True,
            skips_sender_check=skips_sender_check, tracing=tracing, keeps_state=tracing,
        )  # fmt: skip

    done = None
    with contextlib.suppress(SenderInvalid):
        done = await apply(skips_sender_check=False)
    if done is None or done.applied.exit_code == SENDER_INVALID:
        done = await apply(skips_sender_check=True)
    return done


async def estimate_eth_gas(ctx: Context, executor: Executor, message: Message, tipset: Tipset) -> int:
    """The gas limit that a call needs. Errors: ExecutionReverted, MethodError, NotHeld, Unavailable."""
    message = replace(message, gas_limit=0)
    if await _is_contract(ctx, tipset, Address(message.from_)):
        return await _estimate_without_sender(ctx, executor, message, tipset)
    try:
        with_gas = await estimate_message_gas(ctx, executor, message, tipset)
    except SenderInvalid:
        return await _estimate_without_sender(ctx, executor, message, tipset)
    except ExecutionReverted:
        raise
    except (MethodError, OutOfGas) as error:
        raise MethodError(f"failed to estimate gas: {error}") from None
    return await _search(ctx, executor, with_gas, tipset, skips=False)


async def _estimate_without_sender(ctx: Context, executor: Executor, message: Message, tipset: Tipset) -> int:
    try:
        limit = await estimate_gas_limit(ctx, executor, message, tipset, skips_sender_check=True)
    except (MethodError, OutOfGas, ExecutionReverted) as error:
        # executed once more on the block's own state, for the revert's data
        await _apply(ctx, executor, replace(message, gas_limit=BLOCK_GAS), tipset)
        raise MethodError(f"failed to estimate gas: {error}") from None
    return await _search(ctx, executor, replace(message, gas_limit=overestimated(limit)), tipset, skips=True)


async def _search(ctx: Context, executor: Executor, message: Message, tipset: Tipset, *, skips: bool) -> int:
    try:
        return await search_gas(ctx, executor, message, tipset, skips_sender_check=skips)
    except MethodError as error:
        raise MethodError(f"gas search failed: {error}") from None


async def _is_contract(ctx: Context, tipset: Tipset, sender: Address) -> bool:
    states = await states_of(ctx, tipset)
    try:
        actor = await states.actor(sender)
    except ActorNotFound:
        return False
    found = known_code(actor.code) or await kind_of_code(states.tree, actor.code, states.network_version)
    return found is not None and found[0] == _EVM
