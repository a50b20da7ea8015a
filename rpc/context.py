"""One request's view: its pinned head, its services, whom it comes from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from time import perf_counter
from typing import Any, Final, NamedTuple

from blockstore.store import Store
from chain.address import Address
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.state.state_tree import Actor, StateTree
from chain.tipset import Tipset, TipsetKey
from rpc.admission import Admission, Lane
from rpc.errors import TimeBudgetExceeded, Unavailable
from rpc.executor import Executor
from rpc.permissions import DEFAULT_PERMISSIONS
from rpc.services import Head, NodeClient, Services
from rpc.session import Session

#: the most values that one added header shows, however many calls of a batch have something to say
_MAX_HEADER_VALUES: Final = 16
#: values of `Context.depends_on` below and above all epochs
NOTHING: Final = -1
WHOLE_HEAD: Final = 1 << 62


class _Done:
    """An awaitable that is done already: awaiting it costs next to nothing and never suspends."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


#: what `Context.checkpoint` returns when there is nothing to wait for
DONE: Final = _Done()


#: how a state tree follows from a head: a name or a block tag, and the network version where the answer needs it
StateView = tuple[str, int]


class SeenActor(NamedTuple):
    """An actor that an answer is a function of, as it was found under an address."""

    view: StateView
    address: Address
    actor: Actor


class Context:
    """One per HTTP request (a whole batch shares it) or WebSocket call.

    The head is pinned at first use, and stays: whatever a request asks of "the head", it asks of one tipset.
    `version` is 0, 1 or 2: the API path that was called; `session` the WebSocket session or None.
    `verbose` (the query's `?verbose`): where Lotus answers a bare null, an error that says why is wanted.
    """

    __slots__ = (
        "account", "admission", "asked_node", "cache_status", "deadline", "depends_on", "find_client", "headers",
        "lane_places", "permissions", "pinned", "reserved_bytes", "retry_after", "search_limit", "seen", "services",
        "session", "stages", "time_budget_seconds", "verbose", "version", "waits",
    )  # fmt: skip

    def __init__(
        self,
        services: Services,
        *,
        version: int = 1,
        session: Session | None = None,
        permissions: frozenset[str] = DEFAULT_PERMISSIONS,
    ) -> None:
        self.services = services
        self.version = version
        self.session = session
        self.permissions = permissions
        self.pinned: Head | None = None
        self.verbose = False
        #: tells whom the request comes from; only asked where that matters
        self.find_client: Callable[[], str] | None = None
        #: values by name, from `add_header`; None for none
        self.headers: dict[str, list[str]] | None = None
        #: seconds that the work for this request may take, and when they are over; None: no limit, not started yet
        self.time_budget_seconds: float | None = None
        self.deadline: float | None = None
        #: the budgets of the process, where there are some
        self.admission: Admission | None = None
        #: whose shares of them this request uses; "" for nobody's
        self.account = ""
        #: bytes of `admission.memory` that this request holds
        self.reserved_bytes = 0
        #: whole seconds until a quota that refused this request has room; 0: none did
        self.retry_after = 0
        #: epochs that a search for a message goes back where no parameter says so; -1: any number
        self.search_limit = -1
        #: how many calls of this request wait now
        self.waits = 0
        #: of a batch, by lane: who of its calls may go in
        self.lane_places: dict[str, asyncio.Semaphore] | None = None
        #: up to which epoch of the head's chain the answer depends on it: NOTHING, an epoch, or WHOLE_HEAD. The calls
        #: of a batch share it, so it only grows
        self.depends_on = NOTHING
        #: the actor through which alone the answer depends on the head, and the tree that it was found in
        self.seen: tuple[SeenActor, StateTree] | None = None
        #: whether the full node behind was looked at
        self.asked_node = False
        #: what `X-Cache` says of a single call; None: nothing
        self.cache_status: bytes | None = None
        #: names of the stages of a single call and when each ended, the first of them nameless: for `Server-Timing`;
        #: None where nobody asks
        self.stages: list[tuple[str, float]] | None = None

    def checkpoint(self) -> Awaitable[None]:
        """Let other requests go on. Call it inside every walk: `await ctx.checkpoint()`.

        A walk over objects, rows or values that may be many calls it once per item, or once per 16 to 64 items where
        an item takes less than 10 µs. It costs about 0.1 µs, and suspends only when the walks of all requests have used
        the slice of this turn of the loop (3 ms) together. No more than 10 ms of work should lie between two calls.
        Code that knows no context takes the bound method: `checkpoint: Callable[[], Awaitable[None]]`.

        Errors: TimeBudgetExceeded, when the request has used its time; CancelledError, when its client has gone.
        """
        now = perf_counter()
        pacer = self.services.pacer
        if now < pacer.slice_end:
            return DONE
        if self.time_budget_seconds is not None:
            if self.deadline is None:
                self.deadline = now + self.time_budget_seconds
            elif now > self.deadline:
                raise TimeBudgetExceeded(self.time_budget_seconds, self.time_budget_name)
        return DONE if pacer.try_turn(now) else pacer.turn()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block this request waits for something to come, and keeps no worker: `with ctx.waiting():`.

        For what may take long and does nothing meanwhile: a head, a message on chain. Declare such a method with
        `Cost.WAIT`, which has no lane. The time counts for nothing. Errors: Refused (too many wait).
        """
        admission = self.admission
        if admission is None:
            yield
            return
        started = perf_counter()
        admission.waiting.take(self.account)
        if not self.waits:
            admission.working.give(self.account)
        self.waits += 1
        try:
            yield
        finally:
            self.waits -= 1
            if not self.waits:
                admission.working.retake(self.account)
            admission.waiting.give(self.account)
            if self.deadline is not None:
                self.deadline += perf_counter() - started

    @property
    def time_budget_name(self) -> str:
        """The setting that `time_budget_seconds` is."""
        return "request_seconds" if self.lane_places is None else "batch_seconds"

    def reserve(self, size: int) -> None:
        """Count `size` more bytes of memory that this request holds until its answer has left. Errors: Refused."""
        if self.admission is not None:
            self.admission.memory.take(self.account, size)
            self.reserved_bytes += size

    def release(self) -> None:
        """Give back the memory that was reserved."""
        size, self.reserved_bytes = self.reserved_bytes, 0
        if size and self.admission is not None:
            self.admission.memory.give(self.account, size)

    def place_in(self, lane: Lane) -> asyncio.Semaphore:
        """Of a batch: who of its calls may go into this lane. One batch does not fill a lane."""
        places = self.lane_places
        assert places is not None
        own = places.get(lane.calls.name)
        if own is None:
            own = places[lane.calls.name] = asyncio.Semaphore(lane.per_request)
        return own

    def add_header(self, name: str, value: str) -> None:
        """Add an HTTP header of printable ASCII to the answer. Calls of a WebSocket have no headers.

        Calls of one batch share a header: different values stand in one line, with commas, and no more than
        a few of them. Errors: ValueError, for what is no header.
        """
        if not (name + value).isascii() or not (name + value).isprintable() or ":" in name:
            raise ValueError(f"no header: {name!r}: {value!r}")
        if self.headers is None:
            self.headers = {}
        values = self.headers.setdefault(name, [])
        if value not in values and len(values) < _MAX_HEADER_VALUES:
            values.append(value)

    @property
    def has_headers(self) -> bool:
        """Whether `added_headers` has any."""
        return self.headers is not None or self.cache_status is not None or self.stages is not None

    def added_headers(self) -> Iterator[tuple[str, str]]:
        """(header, value) of what was added, of where the answer came from, and of the stages it went through."""
        if self.cache_status is not None:
            yield "X-Cache", self.cache_status.decode()
        if self.stages:
            ended = [at for _, at in self.stages]
            took = zip(self.stages[1:], ended, strict=False)
            yield "Server-Timing", ", ".join(f"{name};dur={(end - begun) * 1e3:.3f}" for (name, end), begun in took)
        for name, values in (self.headers or {}).items():
            yield name, ", ".join(values)

    @property
    def client(self) -> str:
        """The client's address, as `rpc.server.client_address` tells clients apart; "" where it is not known."""
        if self.session is not None:
            return self.session.client
        return "" if self.find_client is None else self.find_client()

    @property
    def store(self) -> Store:
        """The blockstore."""
        return self.services.store

    @property
    def index(self) -> ChainIndex:
        """Tipsets by key and epoch."""
        return self.services.index

    @property
    def objects(self) -> Objects:
        """Objects by CID, cached."""
        return self.services.objects

    @property
    def network(self) -> NetworkRecord:
        """The network that the store belongs to."""
        return self.services.network

    @property
    def node(self) -> NodeClient | None:
        """The full node behind, where there is one. What it answers is not kept."""
        self.asked_node |= self.services.node is not None
        return self.services.node

    @property
    def executor(self) -> Executor | None:
        """The virtual machine, where there is one."""
        return self.services.executor

    @property
    def extra(self) -> dict[str, Any]:
        """What this kind of process adds to the services."""
        return self.services.extra

    @property
    def caches(self) -> dict[str, Any]:
        """What methods keep for all requests of the process, by their own keys."""
        return self.services.caches

    async def head(self) -> Head:
        """The head of this request, pinned at first use. Errors: NotHeld, StoreError."""
        self.depends_on = WHOLE_HEAD
        return await self.pin_head()

    def note_chain(self, epoch: int) -> None:
        """Note that the answer depends on the head's chain, but on nothing above this epoch. See `pin_head`."""
        if epoch > self.depends_on:
            self.depends_on = epoch

    def note_actor(self, view: StateView, tree: StateTree, address: Address, actor: Actor) -> None:
        """Note that the answer, though it depends on the head, is a function of one actor and of the parameters.

        `view`: how the state tree follows from the head. Two trees of one view and one head are the same.
        """
        # the calls of a batch share this context
        if self.lane_places is None:
            self.seen = SeenActor(view, address, actor), tree

    async def pin_head(self) -> Head:
        """As `head`, where the answer does not depend on the whole of it: the caller notes on what it does.

        Errors: NotHeld, StoreError.
        """
        pinned = self.pinned
        if pinned is None:
            pinned = self.pinned = await self.services.head_source.current()
        return pinned

    async def wait_for_head(self, seq: int, seconds: float) -> Head:
        """Pin the first head with this sequence number or a later one. Errors: Unavailable (none comes), Refused."""
        source = self.services.head_source
        try:
            with self.waiting():
                async with asyncio.timeout(seconds):
                    while True:
                        head = await source.current()
                        if head.seq >= seq:
                            self.pinned = head
                            return head
                        entries = source.subscribe(after=head.seq)
                        try:
                            async for entry in entries:
                                if entry.seq >= seq:
                                    break
                        finally:
                            if isinstance(entries, AsyncGenerator):
                                await entries.aclose()
        except TimeoutError:
            raise Unavailable(f"head {seq} has not come within {seconds:g} s") from None

    async def tipset(self, key: TipsetKey) -> Tipset:
        """The tipset with this key; the request's head for the empty key. Errors: Missing, BadObject."""
        if not key:
            return (await self.head()).tipset
        return await self.services.index.tipset(key)
