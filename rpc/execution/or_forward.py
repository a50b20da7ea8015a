"""Answers of the virtual machine: made here where there is one, else by a full node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from chain.errors import NotHeld
from rpc.context import Context
from rpc.errors import NeedsNode, Unavailable
from rpc.executor import Executor
from rpc.json_wire import encoder
from rpc.lookup.forward import forward

T = TypeVar("T")


async def execute_or_forward(
    ctx: Context, run: Callable[[Executor], Awaitable[T]], name: str, params: list[Any], key: int | None = None
) -> T | Any:
    """What `run` answers, else the full node: where this process has no machine, or what it needs is not held.

    Errors: those of `run`; NeedsNode, and the node's own.
    """
    if ctx.executor is None:
        if ctx.node is None:
            raise NeedsNode(name, could_execute=True)
        return await forward(ctx, name, _plain(ctx, params), key)
    try:
        return await run(ctx.executor)
    except (NotHeld, Unavailable):
        if ctx.node is None:
            raise
        return await forward(ctx, name, _plain(ctx, params), key)


def _plain(ctx: Context, params: list[Any]) -> list[Any]:
    """Parameters as plain JSON values, as the node's client sends them."""
    values: list[Any] = orjson.loads(encoder(ctx.network.address_prefix)(params))
    return values
