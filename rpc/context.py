"""One request's view: its pinned head, its services, whom it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from rpc.errors import Unavailable
from rpc.services import Head, NodeClient, Services

if TYPE_CHECKING:
    from rpc.server.websocket import Connection

#: what a caller without a token may do
DEFAULT_PERMISSIONS: Final = frozenset({"read"})
ALL_PERMISSIONS: Final = frozenset({"read", "write", "sign", "admin"})
#: the most values that one note shows, however many calls of a batch had something to say
_NOTED: Final = 16


class Context:
    """One per HTTP request (a whole batch shares it) or WebSocket call.

    The head is pinned at first use, and stays: whatever a request asks of "the head", it asks of one tipset.
    `version` is 0, 1 or 2: the API path that was called; `connection` the WebSocket session or None.
    `verbose` (the query's `?verbose`): where Lotus answers a bare null, an error that says why is wanted.
    """

    __slots__ = ("connection", "find_client", "notes", "permissions", "pinned", "services", "verbose", "version")

    def __init__(
        self,
        services: Services,
        *,
        version: int = 1,
        connection: Connection | None = None,
        permissions: frozenset[str] = DEFAULT_PERMISSIONS,
    ) -> None:
        self.services = services
        self.version = version
        self.connection = connection
        self.permissions = permissions
        self.pinned: Head | None = None
        self.verbose = False
        #: tells whom the request comes from; only asked where that matters
        self.find_client: Callable[[], str] | None = None
        #: by name, what `note` was told; None for nothing
        self.notes: dict[str, list[str]] | None = None

    def note(self, name: str, value: str) -> None:
        """Say something beside the answer: an HTTP header (WebSocket calls have none) of printable ASCII.

        Calls of one batch share a header: different values stand in one line, with commas, and no more than
        a few of them. Errors: ValueError, for what is no header.
        """
        if not (name + value).isascii() or not (name + value).isprintable() or ":" in name:
            raise ValueError(f"no header: {name!r}: {value!r}")
        if self.notes is None:
            self.notes = {}
        values = self.notes.setdefault(name, [])
        if value not in values and len(values) < _NOTED:
            values.append(value)

    def noted(self) -> Iterator[tuple[str, str]]:
        """The notes as (header, value)."""
        for name, values in (self.notes or {}).items():
            yield name, ", ".join(values)

    @property
    def client(self) -> str:
        """The client's address, as `rpc.server.client_address` tells clients apart; "" where it is not known."""
        if self.connection is not None:
            return self.connection.client
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
        """The full node behind, where there is one."""
        return self.services.node

    @property
    def extra(self) -> dict[str, Any]:
        """What this kind of process adds to the services."""
        return self.services.extra

    async def head(self) -> Head:
        """The head of this request, pinned at first use. Errors: NotHeld, StoreError."""
        pinned = self.pinned
        if pinned is None:
            pinned = self.pinned = await self.services.head_source.current()
        return pinned

    async def wait_for_head(self, seq: int, seconds: float) -> Head:
        """Pin the first head with this sequence number or a later one. Errors: Unavailable, when none comes."""
        source = self.services.head_source
        try:
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
