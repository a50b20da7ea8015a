"""A request's context over other services than its process's own."""

from __future__ import annotations

from typing import Any, cast

from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.services import Services


class _OtherServices:
    """Everything but the services is the context's: its head, budgets, headers and places in lanes are counted once."""

    __slots__ = ("_ctx", "_services")

    _ctx: Context
    _services: Services

    def __init__(self, ctx: Context, services: Services) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_services", services)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)

    @property
    def services(self) -> Services:
        return self._services

    @property
    def store(self) -> Store:
        return self._services.store

    @property
    def index(self) -> ChainIndex:
        return self._services.index

    @property
    def objects(self) -> Objects:
        return self._services.objects

    @property
    def extra(self) -> dict[str, Any]:
        return self._services.extra

    async def tipset(self, key: TipsetKey) -> Tipset:
        return await self._services.index.tipset(key) if key else (await self._ctx.head()).tipset


def with_services(ctx: Context, services: Services) -> Context:
    """The same request, whose look-ups go to `services`."""
    return cast(Context, _OtherServices(ctx, services))
