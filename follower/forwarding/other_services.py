"""A request's context over other services than its process's own."""

from __future__ import annotations

from typing import Any, cast

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

    # the context's own, which ask `services`
    store = Context.store
    index = Context.index
    objects = Context.objects
    extra = Context.extra
    caches = Context.caches
    tipset = Context.tipset


def with_services(ctx: Context, services: Services) -> Context:
    """The same request, whose look-ups go to `services`."""
    return cast(Context, _OtherServices(ctx, services))
