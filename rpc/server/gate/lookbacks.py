"""How far back a call asks: the epochs that its parameters name.

lotus-gateway bounds the same methods, but for gas estimates, traces of calls, filters that are installed, and the
selectors of v2, which it lets pass. Source: Lotus `gateway/proxy_eth_v1.go`, `gateway/proxy_fil_v1.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from blockstore.errors import StoreError
from chain.errors import ChainError
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import RpcError
from rpc.lookup.eth.block_parameter import EARLIEST, TAGS, BlockParam, BlockParameter, select_hash, select_text
from rpc.lookup.eth.trace_filter import TraceFilter
from rpc.lookup.events.actor_event_filter import ActorEventFilter
from rpc.lookup.events.log_filter import LogFilter
from rpc.params import EthUint64, param_of
from rpc.registry import Method

_EPOCH: Final = "abi.ChainEpoch"
_TEXT: Final = "string"
_HASH: Final = "ethtypes.EthHash"
_SELECTOR: Final = "types.TipSetSelector"
#: parameters that are epochs and no look-back: how far a search goes
_SEARCH_LIMITS: Final = frozenset({"limit", "look_back_limit", "confidence"})
_NUMBER: Final = param_of("block", EthUint64)
_BLOCK: Final = param_of("block", BlockParam)
_KEY: Final = param_of("tipset key", TipsetKey)
#: by method, the place of a block parameter, and of a tipset key, among parameters that the method decodes itself
_RAW_BLOCKS: Final = {"EthEstimateGas": 1, "debug_traceCall": 1, "trace_call": 2}
_RAW_KEYS: Final = {"MpoolPending": 0, "MpoolSelect": 0, "MinerGetBaseInfo": 2}


class DecodedCall(Protocol):
    """A method and its decoded parameters."""

    method: Method
    arguments: list[Any]


async def named_epochs(ctx: Context, call: DecodedCall) -> AsyncIterator[int]:
    """The epochs that a call names by key, epoch, block or range; none where the method itself will refuse it."""
    if call.method.raw:
        given = call.arguments[0] if call.arguments else None
        if isinstance(given, list):
            for one in await _found(_of_raw(ctx, call.method.field, given)):
                yield one
        return
    for param, value in zip(call.method.params, call.arguments, strict=False):
        for one in await _found(_of_param(ctx, param.name, param.go, value)):
            yield one


async def _found(epochs: AsyncIterator[int | None]) -> list[int]:
    """What is named until something is wrong with it."""
    found: list[int] = []
    try:
        async for one in epochs:
            if one is not None:
                found.append(one)
    except (ChainError, StoreError, RpcError, ValueError):
        return found
    return found


async def _of_param(ctx: Context, name: str, go: str, value: Any) -> AsyncIterator[int | None]:
    if isinstance(value, TipsetKey):
        yield await _of_key(ctx, value)
    elif isinstance(value, BlockParameter):
        yield await _of_block(ctx, value)
    elif isinstance(value, LogFilter):
        yield _of_text(value.low)
        yield _of_text(value.high)
        if value.block_hash is not None:
            yield (await select_hash(ctx, value.block_hash)).height
    elif isinstance(value, TraceFilter):
        yield _of_text(value.low)
        yield _of_text(value.high)
    elif isinstance(value, ActorEventFilter):
        for epoch in (value.low, value.high):
            # below zero: as if it were left out
            yield epoch if epoch is not None and epoch >= 0 else None
        yield await _of_key(ctx, value.key)
    elif go == _SELECTOR and value is not None:
        if value.height is not None:
            yield value.height.at
        if value.key is not None:
            yield await _of_key(ctx, value.key)
    elif go == _TEXT and name == "block":
        yield _of_text(value)
    elif go == _HASH and name == "block_hash":
        yield (await select_hash(ctx, value)).height
    elif go == _EPOCH and name not in _SEARCH_LIMITS and type(value) is int:
        yield value


async def _of_raw(ctx: Context, method: str, given: list[Any]) -> AsyncIterator[int | None]:
    if method == "EthFeeHistory" and len(given) >= 2:
        newest = await select_text(ctx, given[1] or "", strict=False)
        yield newest.height - int(_NUMBER.decode(given[0]))
    place = _RAW_BLOCKS.get(method)
    if place is not None and place < len(given) and given[place] is not None:
        yield await _of_block(ctx, _BLOCK.decode(given[place]))
    place = _RAW_KEYS.get(method)
    if place is not None and place < len(given):
        yield await _of_key(ctx, _KEY.decode(given[place]))


async def _of_key(ctx: Context, key: TipsetKey) -> int | None:
    return (await ctx.index.tipset(key)).height if key else None


async def _of_block(ctx: Context, block: BlockParameter) -> int | None:
    if block.hash is not None:
        return (await select_hash(ctx, block.hash)).height
    return block.number


def _of_text(text: str | None) -> int | None:
    """A number, or "earliest"; the other tags are near the head. Errors: ValueError."""
    if not text or (text in TAGS and text != EARLIEST):
        return None
    return 0 if text == EARLIEST else int(_NUMBER.decode(text))
