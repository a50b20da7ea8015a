"""The head of a played node: its owner moves it, subscribers see each change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from blockstore.store import HeadEntry, TipsetRef
from chain.errors import NotHeld
from chain.tipset import Tipset
from rpc.services import Head

#: head changes kept for subscribers that come late or read slowly
_KEPT: Final = 10_000


def ref_of(tipset: Tipset) -> TipsetRef:
    """The tipset as the head log names it."""
    return TipsetRef(tipset.height, bytes(tipset.key))


class NodeHeads:
    """A HeadSource that is told its head changes by `move`."""

    def __init__(self, head: Tipset) -> None:
        self._head = Head(0, None, head)
        self._log: deque[HeadEntry] = deque(maxlen=_KEPT)
        self._moved = asyncio.Event()
        #: by subscription, the last entry that it has taken and come back from
        self._taken: dict[object, int] = {}
        self._asked = asyncio.Event()

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return len(self._taken)

    @property
    def head(self) -> Tipset:
        """The head now."""
        return self._head.tipset

    @property
    def seq(self) -> int:
        """How often the head has moved."""
        return self._head.seq

    def move(self, reverts: Sequence[Tipset], applies: Sequence[Tipset], head: Tipset) -> None:
        """One whole head change; every subscriber sees it."""
        entry = HeadEntry(
            seq=self._head.seq + 1,
            term=1,
            reverts=tuple(ref_of(tipset) for tipset in reverts),
            applies=tuple(ref_of(tipset) for tipset in applies),
            head=ref_of(head),
        )
        self._log.append(entry)
        self._head = Head(entry.seq, entry, head)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def current(self) -> Head:
        """The head now."""
        return self._head

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        """Every entry after `after`, in order. Errors: NotHeld, for one who reads too slowly."""
        last = self._head.seq if after is None else after
        me = object()
        self._taken[me] = last
        try:
            while True:
                if last == self._head.seq:
                    self._taken[me] = last
                    asked, self._asked = self._asked, asyncio.Event()
                    asked.set()
                    await self._moved.wait()
                    continue
                first = self._log[0].seq
                if last + 1 < first:
                    raise NotHeld(f"head changes since {last}: the log begins at {first}")
                entry = self._log[last + 1 - first]
                last = entry.seq
                yield entry
        finally:
            del self._taken[me]
            self._asked.set()

    async def wait_until_consumed(self) -> None:
        """Wait until there is a subscriber, and all have taken every entry and wait for the next."""
        while True:
            asked = self._asked
            if self._taken and all(last == self._head.seq for last in self._taken.values()):
                # what was taken is on its way to the sockets: let that go on before the next
                await asyncio.sleep(0)
                if self._taken:
                    return
                continue
            await asked.wait()
            if asked is self._asked:
                self._asked = asyncio.Event()
