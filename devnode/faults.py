"""Faults of a played node, on request: for tests of what follows it.

Everything here can be switched while the node runs. What concerns connections (drop them, restart, stand
half open) is done by `PlayedNode`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.memory import MemoryStore
from blockstore.store import Held
from chain.errors import BadRequest
from rpc.context import Context
from rpc.registry import Method


@dataclass
class Faults:
    """Switches that every request reads anew. 0: never.

    `lies`, `lacks`: multihashes answered with wrong bytes, or as absent. `delay_seconds`: before each answer.
    `drop_every`: head changes until all connections are cut. `restart_every`: head changes until the node restarts and
    stays away for `down_seconds`. `lie_every`: one object read in so many is answered with wrong bytes.
    `status` (500 to 599): HTTP status of one answer in `status_every`, without JSON. `has_websocket`: else HTTP alone.
    """

    lies: set[bytes] = field(default_factory=set)
    lacks: set[bytes] = field(default_factory=set)
    delay_seconds: float = 0.0
    drop_every: int = 0
    restart_every: int = 0
    down_seconds: float = 0.0
    lie_every: int = 0
    status: int = 0
    status_every: int = 1
    has_websocket: bool = True
    reads: int = 0
    answers: int = 0
    _speaking: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.status and not 500 <= self.status <= 599:
            raise BadRequest(f"a status of {self.status}: only 500 to 599 are faults")
        self._speaking.set()

    @property
    def is_mute(self) -> bool:
        """Whether the node answers and pushes nothing, as a peer that is cut off."""
        return not self._speaking.is_set()

    @is_mute.setter
    def is_mute(self, mute: bool) -> None:
        if mute:
            self._speaking.clear()
        else:
            self._speaking.set()

    async def wait_until_unmuted(self) -> None:
        """Return once the node is not mute."""
        await self._speaking.wait()

    async def guard(self, ctx: Context, method: Method) -> None:
        """Runs before each call."""
        await self.wait_until_unmuted()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)

    def next_status(self) -> int:
        """The HTTP status of a bad answer to this request, or 0."""
        if not self.status:
            return 0
        self.answers += 1
        return self.status if self.answers % max(1, self.status_every) == 0 else 0

    def read(self, multihash: bytes, data: bytes | None) -> bytes | None:
        """What the node answers for an object."""
        self.reads += 1
        if data is None or multihash in self.lacks:
            return None
        if multihash in self.lies or (self.lie_every and self.reads % self.lie_every == 0):
            return data[:-1] + bytes((data[-1] ^ 1,)) if data else b"\0"
        return data


class FaultyStore(MemoryStore):
    """A store in memory that lies and lacks as `faults` say, to whoever asks for objects one by one.

    `hides`, where set, says of a multihash whether it is not there *yet*. `honest` answers without faults.
    """

    def __init__(self, name: str, faults: Faults) -> None:
        super().__init__(name)
        self.faults = faults
        self.hides: Callable[[bytes], bool] | None = None
        self.honest = _Honest(self)

    @property
    def size(self) -> int:
        """Bytes of objects held."""
        return self._bytes

    def held(self, cid: Cid) -> bytes | None:
        """An object without any fault, or None."""
        return self._objects.get(cid.multihash)

    def _seen(self, multihash: bytes, data: bytes | None) -> bytes | None:
        if self.hides is not None and self.hides(multihash):
            return None
        return self.faults.read(multihash, data)

    async def get(self, multihash: bytes) -> bytes | None:
        """The object, or what the faults make of it."""
        return self._seen(multihash, self._objects.get(multihash))

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects, or what the faults make of them."""
        return [self._seen(multihash, self._objects.get(multihash)) for multihash in multihashes]

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each is held; what is lacked is absent."""
        found = await super().held_many(multihashes)
        hides = self.hides or (lambda multihash: False)
        lacks = self.faults.lacks
        return [Held.ABSENT if mh in lacks or hides(mh) else held for mh, held in zip(multihashes, found, strict=True)]


class _Honest:
    """The node's own view of its store, by CID: an ObjectReader without faults but for what is not there yet."""

    def __init__(self, store: FaultyStore) -> None:
        self._store = store

    async def get(self, cid: bytes) -> bytes:
        """The object. Errors: Missing."""
        return (await self.get_many([cid]))[0]

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects, in order. Errors: Missing."""
        store = self._store
        found = []
        for cid in cids:
            multihash = Cid(cid).multihash
            data = store.held(Cid(cid))
            if data is None or (store.hides is not None and store.hides(multihash)):
                raise Missing(Cid(cid))
            found.append(data)
        return found
