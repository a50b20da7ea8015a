"""Answers of the virtual machine: made here where there is one, else by a full node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from chain.errors import NotHeld
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import METHOD_NOT_FOUND, NeedsNode, RpcError, Unavailable
from rpc.executor import Executor
from rpc.json_wire import encoder
from rpc.lookup.forward import forward
from rpc.node_errors import CallFailed

T = TypeVar("T")


async def execute_or_forward(
    ctx: Context,
    run: Callable[[Executor], Awaitable[T]],
    name: str,
    params: list[Any],
    key: int | None = None,
    *,
    at: Tipset | None = None,
) -> T | Any:
    """What `run` answers, else the full node: where this process has no machine, or what it needs is not held.

    `key`, `at`: as `rpc.lookup.forward.forward` takes them. Errors: those of `run`; NeedsNode, and the node's own.
    """
    reason: RpcError | NotHeld = NeedsNode(name, could_execute=True)
    if ctx.executor is not None:
        try:
            return await run(ctx.executor)
        except (NotHeld, Unavailable) as error:
            reason = error
    if ctx.node is None:
        raise reason
    try:
        return await forward(ctx, name, _plain(ctx, params), key, at=at)
    except CallFailed as error:
        # not every node has every method: then the reason why it is not executed here says more
        raise (reason if error.code == METHOD_NOT_FOUND else error) from None


def _plain(ctx: Context, params: list[Any]) -> list[Any]:
    """Parameters as plain JSON values, as the node's client sends them."""
    values: list[Any] = orjson.loads(encoder(ctx.network.address_prefix)(params))
    return values
