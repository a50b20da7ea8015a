"""Answers kept as bytes, bounded in bytes: found, kept, and dropped with what they depend on.

An entry holds the epoch of the head's chain up to which its answer depends on it. A new head drops nothing by itself:
`head_changes.common_epoch` says how far the chains of the two heads agree, and an entry that depends on no more than
that stands. Entries that do not are taken for absent, and leave as others come: nothing is swept.
An answer that is a function of one actor stands under any head at which that actor is the same, which is looked up in
memory once for each head (`Context.note_actor`).
Identical calls under way are joined: one computes, the others wait for its bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from blockstore.errors import StoreError
from chain.errors import ChainError
from chain.index.kept import FRESH_SECONDS
from chain.state.state_tree import StateTree
from rpc.admission import Admission
from rpc.context import NOTHING, WHOLE_HEAD, Context, SeenActor, StateView
from rpc.errors import Refused, RpcError
from rpc.json_wire import SHORT_TEXT, Text, encode_id
from rpc.registry import Cache, Method
from rpc.server.answer_text import BEFORE_ID, answer_with, behind_id
from rpc.server.answers.answer_lru import AnswerLru, Kept, KeptText
from rpc.server.answers.flight import FAILED, Flight
from rpc.server.answers.head_changes import common_epoch
from rpc.server.answers.packed import MOST_PACKED, Packed
from rpc.server.answers.question import is_absence, needs_head, question_key, tipset_places
from rpc.server.answers.raw_request import ID, MAX_RAW, find_id, is_id
from rpc.server.metrics import MethodStats
from rpc.server.request import Request
from rpc.services import Head, Services

HIT: Final = b"HIT"
MISS: Final = b"MISS"
FETCHING: Final = b"FETCHING"
#: what stands for the id in the key of a request's bytes, by API version: bytes that no JSON text has in it
_ID_OF: Final = (b"\0", b"\1", b"\2")
_NO_TREE: Final[tuple[int, StateTree | None]] = (0, None)
#: head changes with reverts that are remembered; what was kept before them is dropped
_MOST_FORKS: Final = 64


class Answers:
    """The answers that a process keeps: at most `limit` bytes. `gzip_from`: see `ServerSettings.gzip_from`."""

    def __init__(
        self, services: Services, admission: Admission, permissions: frozenset[str], limit: int, gzip_from: int
    ) -> None:
        self._services = services
        self._admission = admission
        self._working = admission.working
        self._permissions = permissions
        self._kept = AnswerLru(limit)
        #: the shortest text that is packed, and the shortest that needs more than a look
        self._gzip_from = gzip_from
        self._long = min(gzip_from, SHORT_TEXT + 1)
        self._places: dict[str, tuple[int, ...]] = {}
        self._flights: dict[tuple[bytes, bytes], Flight] = {}
        #: the newest head that was seen, and how many there were
        self._head: Head | None = None
        self._head_number = 0
        #: the heads that took something back: (number, epoch up to which the chain was left alone)
        self._forks: deque[tuple[int, int]] = deque()
        #: by view, the newest tree that an answer was found in, and the number of its head
        self._trees: dict[StateView, tuple[int, StateTree]] = {}
        #: what was kept before this head may have been taken back since
        self._oldest_number = 0
        self._following = asyncio.Lock()
        self._upgrades: Any = services.network.upgrades
        self._held = services.index.known_kept
        self._peek = getattr(services.head_source, "peek", None)

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._kept.size

    @property
    def count(self) -> int:
        """Answers held, those that no request gets any more included."""
        return len(self._kept)

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()

    def questions(self, most: int) -> list[tuple[int, bytes]]:
        """(API version, request) of at most so many questions whose answers were kept, the newest first."""
        found: list[tuple[int, bytes]] = []
        for raw in self._kept.newest_requests(most):
            for version, mark in enumerate(_ID_OF):
                if mark in raw:
                    found.append((version, raw.replace(mark, b"0")))
        return found

    # --- finding -------------------------------------------------------------------------------------

    def find_raw(
        self, version: int, body: bytes, permissions: frozenset[str] | None, account: str, gzip: bool = False
    ) -> tuple[bytes, Text | Packed, Head | None, float, Context | None, bytes] | None:
        """The answer to a request with these bytes: `{"id":`, then the id (the first item), then the kept text. Beside
        them its head, when the search began, of a large answer what counts its memory, and its own header lines. None
        where none is kept.

        Counts the request. What needs more than a look is left to the dispatcher: a head that has not been seen yet, a
        client at its limits. `gzip`: whether the client takes it: long texts are packed.
        """
        started = perf_counter()
        if len(body) > MAX_RAW:
            return None
        body = body.strip()
        match = ID.search(body)
        if match is None:
            return None
        start, end = match.span(1)
        kept = self._kept.by_request.get(body[:start] + _ID_OF[version] + body[end:])
        if kept is None or kept.perm not in (self._permissions if permissions is None else permissions):
            return None
        working = self._working
        used = working.used
        if used and (used >= working.cap or (account and working.by_client.get(account, 0) >= working.client_cap)):
            return None
        head = None
        if kept.epoch != NOTHING:
            head = None if self._peek is None else self._peek()
            if head is None or head is not self._head:
                return None
            if kept.head_number != self._head_number and not self._stands(kept):
                return None
        text: Text | Packed = kept.text
        counted = None
        if len(text) >= self._long:
            if gzip and self._gzip_from <= len(text) <= MOST_PACKED:
                text = self.packed(kept)
            if len(text) > SHORT_TEXT:
                counted = Context(self._services, version=version)
                counted.admission, counted.account = self._admission, account
                try:
                    counted.reserve(len(text))
                except Refused:
                    return None
        kept.found = True
        kept.stats.add_hit(started)
        return body[start:end], text, head, started, counted, kept.lines

    def whole(self, request_id: Any, kept: Kept) -> Text:
        """The whole answer to a request with this id."""
        if len(kept.text) < self._gzip_from:
            return answer_with(request_id, kept.text)
        return KeptText(BEFORE_ID + encode_id(request_id), kept)

    def packed(self, kept: Kept) -> Packed:
        """What is kept, in gzip's form: made once, and counted as memory."""
        packed = kept.packed
        if packed is None:
            packed = kept.packed = Packed(kept.text)
            self._kept.grow(kept, len(packed))
        return packed

    async def ask(self, ctx: Context, method: Method, stats: MethodStats, params: Any) -> Kept | Flight | None:
        """The answer that is kept or that another call is about to have; a flight, where the caller is to compute it.

        None for what is not kept. Who gets a flight calls `land` with the answer's text, and `give_up` in any case.
        Errors: TimeBudgetExceeded.
        """
        if method.cache is None or method.cache is Cache.NEVER or ctx.verbose or method.perm not in ctx.permissions:
            return None
        key = question_key(ctx.version, method, params)
        if key is None:
            return None
        places = self._places.get(method.name)
        if places is None:
            places = self._places[method.name] = tipset_places(method)
        head: Head | None = None
        if needs_head(method, places, params):
            try:
                head = await ctx.pin_head()
            except (RpcError, ChainError, StoreError):
                # the method says it in its own way
                return None
            if head is not self._head:
                await self.follow(head)
        while True:
            kept = self._kept.get(key)
            if kept is not None and (kept.epoch == NOTHING or (self._is_newest(head) and self._stands(kept))):
                ctx.cache_status = HIT
                stats.hits += 1
                for name, values in kept.headers.items():
                    for value in values:
                        ctx.add_header(name, value)
                return kept
            place = (key, b"" if head is None else head.tipset.key)
            flight = self._flights.get(place)
            if flight is None:
                ctx.cache_status = MISS
                stats.misses += 1
                flight = self._flights[place] = Flight(place, method, stats, head)
                return flight
            found = await flight.wait(ctx)
            ctx.cache_status = FETCHING
            if found is FAILED:
                ctx.cache_status = MISS
                return None
            if found is not None:
                stats.joined += 1
                return Kept(found, WHOLE_HEAD, 0, method.perm, stats)
            # its client has gone: one of those who waited goes on

    def _is_newest(self, head: Head | None) -> bool:
        mine = self._head
        return head is mine or (
            head is not None and mine is not None and head.seq == mine.seq and head.tipset.key == mine.tipset.key
        )

    def _stands(self, kept: Kept) -> bool:
        """Whether an answer that depends on the chain is that of the newest head."""
        if kept.head_number == self._head_number:
            return True
        if kept.seen is not None:
            if not self._is_as_seen(kept.seen):
                return False
            kept.head_number = self._head_number
            return True
        if kept.epoch == WHOLE_HEAD or kept.head_number < self._oldest_number:
            return False
        for number, common in self._forks:
            if number > kept.head_number and common < kept.epoch:
                return False
        kept.head_number = self._head_number
        return True

    def _is_as_seen(self, seen: SeenActor) -> bool:
        """Whether an actor is the same at the newest head. False where memory does not say: the method will."""
        number, tree = self._trees.get(seen.view, _NO_TREE)
        if tree is None or number != self._head_number:
            return False
        try:
            return tree.peek(seen.address) == seen.actor
        except ChainError:
            return False  # the method says it in its own way

    async def follow(self, head: Head) -> None:
        """Take a new head over: know which entries stand. An older head than the newest changes nothing."""
        async with self._following:
            newest = self._head
            if self._is_newest(head) or (newest is not None and head.seq < newest.seq):
                return
            common = NOTHING if newest is None else await common_epoch(self._services, newest, head)
            try:
                held = await self._services.index.kept()
            except StoreError:
                held = self._held
            upgrades = self._services.network.upgrades
            if held != self._held or upgrades != self._upgrades:
                # the store's policy says what is held, and the upgrades what is true of an epoch
                self._held, self._upgrades = held, upgrades
                self.clear()
            self._head_number += 1
            self._head = head
            if common != WHOLE_HEAD:
                self._forks.append((self._head_number, common))
                if len(self._forks) > _MOST_FORKS:
                    self._oldest_number = self._forks.popleft()[0]

    async def watch(self, last_head: Callable[[], Awaitable[Head | None]], seconds: float = FRESH_SECONDS) -> None:
        """Follow the head every so many seconds, whoever asks: what the store drops is not answered for ever.

        `last_head` tells the head without making an idle follower a busy one.
        """
        while True:
            await asyncio.sleep(seconds)
            try:
                head = await last_head()
                if head is not None:
                    await self.follow(head)
            except (RpcError, ChainError, StoreError):
                continue  # requests say it

    # --- keeping -------------------------------------------------------------------------------------

    def land(self, flight: Flight, ctx: Context, result: Text, request: Request, body: bytes | None) -> Text:
        """Keep what a flight has brought, and give it to those who wait: the text behind the id. `body`: as it came."""
        text = behind_id(result)
        epoch = ctx.depends_on
        # who waits has headers of its own; those of a batch are all calls'
        if ctx.asked_node or ctx.headers is not None:
            flight.end(FAILED)
        if ctx.asked_node or (ctx.headers is not None and body is None):
            return text
        # a call that was not asked of a head, and depends on one: others may have pinned another
        flight.end(text if flight.head is not None or epoch == NOTHING else FAILED)
        is_final = flight.method.proves_empty or not is_absence(result)
        if flight.method.cache is Cache.HEAD or not is_final:
            epoch = WHOLE_HEAD
        if epoch != NOTHING and (ctx.pinned is None or not self._is_newest(ctx.pinned)):
            return text
        seen = None
        if ctx.seen is not None and epoch == WHOLE_HEAD and is_final:
            seen, tree = ctx.seen
            self._trees[seen.view] = self._head_number, tree
        key = flight.place[0]
        kept = Kept(text, epoch, self._head_number, flight.method.perm, flight.stats, key, seen, ctx.headers or {})
        if self._kept.put(kept) and body is not None:
            self.keep_request(kept, ctx.version, body, request)
        return text

    def keep_request(self, kept: Kept, version: int, body: bytes, request: Request) -> None:
        """Let a request's bytes lead to an answer."""
        if len(body) > MAX_RAW:
            return
        place = find_id(body)
        if place is None:
            return
        raw = body[: place[0]] + _ID_OF[version] + body[place[1] :]
        if raw not in self._kept.by_request and is_id(body, *place, request):
            self._kept.add_request(kept, raw)

    def give_up(self, flight: Flight, *, failed: bool) -> None:
        """The flight is over. Those who still wait compute for themselves where it `failed`; else one of them does."""
        if self._flights.get(flight.place) is flight:
            del self._flights[flight.place]
        flight.end(FAILED if failed else None)
