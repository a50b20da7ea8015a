"""Gas estimates, as Lotus makes them. No mempool is here: no message is pending.

Sources: Lotus `node/impl/gasutils/gasutils.go`, `node/impl/full/gas.go`, `node/impl/eth/gas.go`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from chain.address import Address
from chain.errors import ChainError
from chain.exit_codes import exit_code_text
from chain.message import Message
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError, OutOfGas
from rpc.execution.bare_call import call_after_messages
from rpc.execution.call import BLOCK_GAS, SenderInvalid
from rpc.execution.revert import OUT_OF_GAS, SENDER_INVALID, failure_text, reverted
from rpc.executor import Executor, Outcome
from rpc.lookup.actor_states import key_address
from rpc.lookup.gas_premium import estimate_premium, with_noise

#: Lotus' `GasLimitOverestimation`
_OVERESTIMATION: Final = 1.25
#: the most that Lotus lets a message cost unless told otherwise: 0.07 FIL
_MAX_FEE: Final = 7 * 10**16
_BASE_FEE_CHANGE: Final = 8


async def estimate_gas_limit(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, *, skips_sender_check: bool = False
) -> int:
    """Gas that a message uses on the head's state, after the head's messages.

    Errors: OutOfGas, ExecutionReverted, SenderInvalid, MethodError, NotHeld.
    """
    free = replace(message, gas_limit=BLOCK_GAS, gas_fee_cap=0, gas_premium=0)
    try:
        applied = await _call_with_gas(ctx, executor, free, tipset, skips_sender_check)
    except SenderInvalid as error:
        raise SenderInvalid(f"gas estimation failed: {error}") from None
    except MethodError as error:
        raise MethodError(f"gas estimation failed: {error}") from None
    if applied.exit_code == OUT_OF_GAS:
        raise OutOfGas("call ran out of gas")
    if applied.exit_code == SENDER_INVALID and not skips_sender_check:
        text = f"exit=[{exit_code_text(applied.exit_code)}], vm error=[{failure_text(applied)}]"
        raise SenderInvalid(f"message execution failed ({text}): sender validation failed")
    if applied.exit_code:
        raise reverted(applied)
    return applied.gas_used


async def _call_with_gas(ctx: Context, executor: Executor, message: Message, tipset: Tipset, skips: bool) -> Outcome:
    """Apply a message at the head, whatever `tipset` says: Lotus asks its mempool, which stands at the head."""
    if not skips:
        sender = Address(message.from_)
        try:
            await key_address(ctx, tipset, sender)
        except (ChainError, MethodError) as error:
            name = sender.text(ctx.network.address_prefix)
            raise SenderInvalid(f"resolving sender {name} ({error}): sender validation failed") from None
    head = (await ctx.head()).tipset
    try:
        return await call_after_messages(ctx, executor, message, head, skips_sender_check=skips)
    except SenderInvalid as error:
        raise SenderInvalid(f"CallWithGas failed: {error}") from None
    except MethodError as error:
        raise MethodError(f"CallWithGas{'SkipSenderValidation' if skips else ''} failed: {error}") from None


def overestimated(gas_limit: int) -> int:
    """A quarter more, at most a block's gas."""
    return min(int(gas_limit * _OVERESTIMATION), BLOCK_GAS)


def estimate_fee_cap(tipset: Tipset, premium: int, blocks: int) -> int:
    """attoFIL a gas unit that still pays the base fee after it rose for so many blocks."""
    factor = int(math.pow(1 + 1 / _BASE_FEE_CHANGE, blocks) * 256)
    return tipset.parent_base_fee * factor // 256 + premium


async def estimate_message_gas(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, max_fee: int = 0, maximizes: bool = False
) -> Message:
    """The message with gas limit, premium and fee cap set where they were zero. Errors: as `estimate_gas_limit`."""
    if not message.gas_limit:
        limit = await estimate_gas_limit(ctx, executor, message, tipset)
        message = replace(message, gas_limit=overestimated(limit))
    if not message.gas_premium:
        message = replace(message, gas_premium=with_noise(await estimate_premium(ctx, 10, tipset.key)))
    if not message.gas_fee_cap:
        message = replace(message, gas_fee_cap=estimate_fee_cap(tipset, message.gas_premium, 20))
    cap = message.gas_fee_cap
    limit_of_fee = max_fee or _MAX_FEE
    if maximizes or cap * message.gas_limit > limit_of_fee:
        cap = limit_of_fee // message.gas_limit
    return replace(message, gas_fee_cap=cap, gas_premium=min(cap, message.gas_premium))


async def search_gas(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, *, skips_sender_check: bool = False
) -> int:
    """The gas limit with which a message succeeds: the one it has, or one found by doubling and halving.

    Errors: MethodError, with the text of Lotus' search.
    """
    try:
        done = await _call_with_gas(ctx, executor, message, tipset, skips_sender_check)
    except MethodError as error:
        raise MethodError(f"gas estimation failed: {error}") from None
    if not done.exit_code:
        return message.gas_limit
    if not done.ran_out:
        raise MethodError(str(reverted(done)))
    found = await _bisect(ctx, executor, message, tipset, skips_sender_check)
    return int(found * _OVERESTIMATION)


async def _bisect(ctx: Context, executor: Executor, message: Message, tipset: Tipset, skips: bool) -> int:
    async def can_succeed(limit: int) -> bool:
        done = await _call_with_gas(ctx, executor, replace(message, gas_limit=limit), tipset, skips)
        return not done.exit_code

    low = high = message.gas_limit
    while not await can_succeed(high):
        low, high = high, high * 2
        if high > BLOCK_GAS:
            high = BLOCK_GAS
            break
    threshold = high // 100
    while high - low > threshold:
        middle = (low + high) // 2
        if await can_succeed(middle):
            high = middle
        else:
            low = middle
        threshold = middle // 100
    return high
