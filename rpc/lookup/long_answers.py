"""Walks over whole trees, and the long answers that they make: they let other requests go on, in bounded memory.

`PacedReader` has a checkpoint before each read, so that every walk over it yields the loop, however deep the walk
lies. `ListWriter` holds a list as its JSON text, a tenth of what its values take.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, Final, TypeVar

import orjson

from rpc.context import Context
from rpc.json_wire import encoder

T = TypeVar("T")

#: values that are written at once
_PART: Final = 64


class PacedReader:
    """The objects of a request, for walks: other requests go on before each read."""

    __slots__ = ("_checkpoint", "_objects")

    def __init__(self, ctx: Context) -> None:
        self._checkpoint = ctx.checkpoint
        self._objects = ctx.objects

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: as `Objects.get`, and those of a checkpoint."""
        await self._checkpoint()
        return await self._objects.get(cid)

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects in the order of `cids`. Errors: as `Objects.get_many`, and those of a checkpoint."""
        await self._checkpoint()
        return await self._objects.get_many(cids)


class ListWriter:
    """A JSON list that is written while a walk makes its values; the text counts as memory of the request."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._encode = encoder(ctx.network.address_prefix)
        self._part: list[Any] = []
        self._written: list[orjson.Fragment] = []

    async def add(self, value: Any) -> None:
        """One value more. Errors: Refused (too much memory), and those of a checkpoint."""
        self._part.append(value)
        if len(self._part) == _PART:
            self._write()
        await self._ctx.checkpoint()

    def _write(self) -> None:
        text = self._encode(self._part)[1:-1]
        self._ctx.reserve(len(text))
        # several values, commas between them: in its list it reads as so many
        self._written.append(orjson.Fragment(text))
        self._part.clear()

    def finish(self) -> list[Any]:
        """The list, for the encoder alone: an element stands for several values. Errors: Refused."""
        if self._part:
            self._write()
        return self._written


async def list_of(ctx: Context, values: AsyncIterable[Any]) -> list[Any]:
    """The list of what a walk yields, as `ListWriter.finish` gives it. Errors: the walk's; Refused."""
    writer = ListWriter(ctx)
    async for value in values:
        await writer.add(value)
    return writer.finish()


async def object_of(ctx: Context, entries: AsyncIterable[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of what a walk yields, each value as its text. Errors: the walk's; Refused."""
    encode = encoder(ctx.network.address_prefix)
    found: dict[str, Any] = {}
    async for key, value in entries:
        text = encode(value)
        ctx.reserve(len(text))
        found[key] = orjson.Fragment(text)
        await ctx.checkpoint()
    return found


async def paced(ctx: Context, values: AsyncIterable[T]) -> AsyncIterator[T]:
    """What a walk yields, with a checkpoint at each value. Errors: the walk's, and those of a checkpoint."""
    async for value in values:
        await ctx.checkpoint()
        yield value
