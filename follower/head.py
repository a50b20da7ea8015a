"""The head as this process serves it: the newest visible entry of the store's head log.

On one machine (LMDB) each request reads the log in a fresh read transaction, so no client can see the head go
back, whichever worker answers. Subscribers share one task that reads what is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from blockstore.errors import Missing, StoreError
from blockstore.store import HeadEntry
from chain.errors import ChainError, NotHeld
from chain.index.chain_index import ChainIndex
from chain.tipset import TipsetKey
from rpc.services import CheckResult, Head

log = logging.getLogger(__name__)

#: entries that a subscriber may lag behind before it is cut off; a node's own bound is 16 notifications
_QUEUE: Final = 256
#: entries of the log read at a time
_PAGE: Final = 100
#: subscribers that are woken in one turn of the loop: others are served between two turns
_WOKEN_AT_ONCE: Final = 32


class HeadLog(Protocol):
    """The part of a store that is used here."""

    async def head(self) -> HeadEntry | None:
        """The newest visible entry."""

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        """Visible entries with seq > `after`, in order."""


class _Subscriber:
    __slots__ = ("behind", "queue")

    def __init__(self) -> None:
        self.queue: asyncio.Queue[HeadEntry | None] = asyncio.Queue(_QUEUE)
        self.behind = False


class NewestHead:
    """Makes heads of log entries and keeps the newest, so that its tipset is read once."""

    def __init__(self, index: ChainIndex) -> None:
        self._index = index
        #: the newest head so far
        self.known: Head | None = None
        #: awaited before a head is served for the first time
        self.before_new_head: Callable[[], Awaitable[None]] | None = None
        #: called when a head is served for the first time; must not take long
        self.after_new_head: Callable[[Head], None] | None = None

    def forget(self) -> None:
        """Forget the newest head: the log does not contain it any more."""
        self.known = None

    async def of(self, entry: HeadEntry) -> Head:
        """The head after an entry. Errors: NotHeld; and what `before_new_head` raises."""
        head = self.known
        if head is None or head.seq != entry.seq or head.tipset.key != entry.head.key:
            try:
                tipset = await self._index.tipset(TipsetKey(entry.head.key))
            except Missing as error:
                raise NotHeld(f"the head's block: {error}") from None
            if self.before_new_head is not None:
                await self.before_new_head()
            head = Head(entry.seq, entry, tipset)
            if self.known is None or self.known.seq < entry.seq:
                self.known = head
                if self.after_new_head is not None:
                    self.after_new_head(head)
        return head


class StoreHeads:
    """A HeadSource over a store's head log. `poll_seconds`: how often the log is read for subscribers."""

    def __init__(self, store: HeadLog, index: ChainIndex, *, poll_seconds: float = 0.02) -> None:
        self._store = store
        #: stores on this machine tell the newest sequence number without waiting
        self._newest_seq: Callable[[], int] | None = getattr(store, "newest_seq", None)
        self._poll_seconds = poll_seconds
        #: `newest.before_new_head` is awaited before a head is served for the first time
        self.newest = NewestHead(index)
        self._subscribers: set[_Subscriber] = set()
        self._poller: asyncio.Task[None] | None = None
        self._seen = 0

    async def current(self) -> Head:
        """The newest visible head. Errors: NotHeld (nothing published yet), StoreError."""
        entry = await self._store.head()
        if entry is None:
            raise NotHeld("any head: nothing has been published to this store yet")
        return await self.newest.of(entry)

    def peek(self) -> Head | None:
        """The newest visible head, where it has been read already and a look shows that; None: ask `current`."""
        known = self.newest.known
        if known is None or self._newest_seq is None:
            return None
        try:
            return known if self._newest_seq() == known.seq else None
        except StoreError:
            return None

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        """Every entry after `after` in order, without a gap; ends when the reader is too slow.

        `after` None: those to come. Errors: NotHeld, when the log does not reach back to `after`.
        """
        subscriber = _Subscriber()
        if self._poller is None or self._poller.done():
            entry = await self._store.head()
            self._seen = 0 if entry is None else entry.seq
            self._poller = asyncio.create_task(self._poll(), name="head log")
        # from here on the poller queues what is newer than `_seen`; what is older is read from the log
        self._subscribers.add(subscriber)
        last = self._seen
        try:
            if after is not None:
                async for entry in self._log(after, last):
                    yield entry
                # the subscriber may know an entry that the poller has not read yet
                last = max(last, after)
            while True:
                if subscriber.behind and subscriber.queue.empty():
                    return
                entry = await subscriber.queue.get()
                if entry is None:
                    return
                if entry.seq > last:
                    last = entry.seq
                    yield entry
        finally:
            self._subscribers.discard(subscriber)
            if not self._subscribers and self._poller is not None:
                self._poller.cancel()
                self._poller = None

    async def _log(self, after: int, until: int) -> AsyncIterator[HeadEntry]:
        while after < until:
            entries = await self._store.head_entries(after, _PAGE)
            if not entries or entries[0].seq != after + 1:
                raise NotHeld(f"head changes since entry {after}: the log begins later")
            for entry in entries:
                if entry.seq > until:
                    return
                yield entry
                after = entry.seq

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                entries = await self._store.head_entries(self._seen, _PAGE)
            except StoreError as error:
                log.warning("the head log cannot be read: %s", error)
                continue
            for entry in entries:
                gap = entry.seq != self._seen + 1
                # who subscribes from here on reads this entry from the log
                self._seen = entry.seq
                for number, subscriber in enumerate(tuple(self._subscribers), 1):
                    self._give(subscriber, entry, gap)
                    if number % _WOKEN_AT_ONCE == 0:
                        await asyncio.sleep(0)

    @staticmethod
    def _give(subscriber: _Subscriber, entry: HeadEntry, gap: bool) -> None:
        if subscriber.behind:
            return
        if gap or subscriber.queue.full():
            subscriber.behind = True
            if not subscriber.queue.full():
                subscriber.queue.put_nowait(None)
            return
        subscriber.queue.put_nowait(entry)

    def end_subscriptions(self) -> None:
        """End every subscription; a new one reads the log anew."""
        for subscriber in self._subscribers:
            subscriber.behind = True
            if not subscriber.queue.full():
                subscriber.queue.put_nowait(None)
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None

    async def close(self) -> None:
        """End every subscription."""
        self.end_subscriptions()

    async def last_head(self) -> Head | None:
        """The newest head. Errors: NotHeld, StoreError."""
        return await self.current()

    async def check(self) -> CheckResult:
        """Health: whether a head can be served."""
        try:
            head = await self.current()
        except (StoreError, ChainError) as error:
            return CheckResult(False, str(error))
        return CheckResult(True, f"head {head.tipset.height}, entry {head.seq}")
