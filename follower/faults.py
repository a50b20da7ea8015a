"""What a played node does wrong on request: for tests of whatever follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from blockstore.memory import MemoryStore
from rpc.context import Context
from rpc.registry import Method


@dataclass(slots=True)
class Faults:
    """Switches, looked at with every request. `lies` and `lacks` are multihashes.

    `delay` seconds pass before each answer; after every `drop_every` head changes all connections are cut;
    of every `lie_every` objects read one is answered with wrong bytes. 0: never.
    """

    lies: set[bytes] = field(default_factory=set)
    lacks: set[bytes] = field(default_factory=set)
    delay: float = 0.0
    drop_every: int = 0
    lie_every: int = 0
    reads: int = 0

    async def guard(self, ctx: Context, method: Method) -> None:
        """Runs before each call."""
        if self.delay:
            await asyncio.sleep(self.delay)

    def seen(self, multihash: bytes, data: bytes | None) -> bytes | None:
        """What is answered for an object."""
        self.reads += 1
        if data is None or multihash in self.lacks:
            return None
        if multihash in self.lies or (self.lie_every and self.reads % self.lie_every == 0):
            return data[:-1] + bytes((data[-1] ^ 1,)) if data else b"\0"
        return data


class FaultyStore(MemoryStore):
    """A store in memory that lies and lacks as `faults` say."""

    def __init__(self, name: str, faults: Faults) -> None:
        super().__init__(name)
        self.faults = faults

    async def get(self, multihash: bytes) -> bytes | None:
        """The object, or what the faults make of it."""
        return self.faults.seen(multihash, await super().get(multihash))

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects, or what the faults make of them."""
        found = await super().get_many(multihashes)
        return [self.faults.seen(mh, data) for mh, data in zip(multihashes, found, strict=True)]
