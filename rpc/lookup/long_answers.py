"""Walks over whole trees, and the long answers that they make: they let other requests go on, in bounded memory.

`PacedReader` has a checkpoint before each read, so that every walk over it yields the loop, however deep the walk
lies. `list_of` and `object_of` hold an answer as its JSON text, a tenth of what its values take.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

import orjson

from rpc.context import DONE, Context
from rpc.json_wire import encoder

T = TypeVar("T")

#: values that are written at once, with a checkpoint behind them
_PART: Final = 64


class PacedReader:
    """The objects of a request, for walks: other requests go on before each read."""

    __slots__ = ("_objects", "checkpoint")

    def __init__(self, ctx: Context) -> None:
        #: for walks that work much between their reads (`chain.ipld.objects.let_others_go_on`)
        self.checkpoint = ctx.checkpoint
        self._objects = ctx.objects

    # no coroutine of its own around each read, where there is nothing to wait for

    def get(self, cid: bytes) -> Coroutine[Any, Any, bytes]:
        """The object's bytes. Errors: as `Objects.get`, and those of a checkpoint."""
        turn = self.checkpoint()
        return self._objects.get(cid) if turn is DONE else self._get_after(turn, cid)

    def get_many(self, cids: Sequence[bytes]) -> Coroutine[Any, Any, list[bytes]]:
        """The objects in the order of `cids`. Errors: as `Objects.get_many`, and those of a checkpoint."""
        turn = self.checkpoint()
        return self._objects.get_many(cids) if turn is DONE else self._get_many_after(turn, cids)

    async def _get_after(self, turn: Awaitable[None], cid: bytes) -> bytes:
        await turn
        return await self._objects.get(cid)

    async def _get_many_after(self, turn: Awaitable[None], cids: Sequence[bytes]) -> list[bytes]:
        await turn
        return await self._objects.get_many(cids)


async def list_of(ctx: Context, parts: AsyncIterable[Iterable[T]], show: Callable[[T], Any]) -> list[Any]:
    """The list of what a walk yields, some at a time, each as `show` gives it: for the encoder. An element may stand
    for several values.

    Longer lists are held as JSON text, which counts as memory of the request. Errors: the walk's; Refused (too much
    memory); those of a checkpoint.
    """
    encode = encoder(ctx.network.address_prefix)
    written: list[Any] = []
    part: list[Any] = []
    async for values in parts:
        for value in values:
            part.append(show(value))
            if len(part) == _PART:
                text = encode(part)[1:-1]
                ctx.reserve(len(text))
                # several values with commas between them: in its list it reads as so many
                written.append(orjson.Fragment(text))
                part.clear()
                await ctx.checkpoint()
    written += part
    return written


async def object_of(
    ctx: Context, parts: AsyncIterable[Iterable[T]], show: Callable[[T], tuple[str, Any]]
) -> dict[str, Any]:
    """The JSON object of what a walk yields, some at a time, each as `show` gives it: for the encoder. Longer ones
    hold each value as its JSON text.

    Errors: the walk's; Refused (too much memory); those of a checkpoint.
    """
    encode = encoder(ctx.network.address_prefix)
    written: dict[str, Any] = {}
    part: dict[str, Any] = {}
    async for entries in parts:
        for entry in entries:
            key, value = show(entry)
            part[key] = value
            if len(part) == _PART:
                size = 0
                for name, one in part.items():
                    text = encode(one)
                    size += len(text)
                    written[name] = orjson.Fragment(text)
                ctx.reserve(size)
                part.clear()
                await ctx.checkpoint()
    written.update(part)
    return written
