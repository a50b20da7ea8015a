"""What tasks read of a store: a tipset with its parent, messages, receipts, states, and the actors that changed.

A `TipsetView` keeps what several tasks read of one tipset. Memory is bounded: objects and tree nodes are in caches of
a size in bytes, and of the actors that changed at most `_CHANGES_KEPT` are kept; more are found anew by each task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import Store
from chain.actors.codes import check_code
from chain.actors.load import States
from chain.address import Address
from chain.errors import BadObject, NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.ipld.tree_nodes import NodeCache
from chain.message import Receipt
from chain.network import NetworkRecord, load_network
from chain.state.id_resolver import id_resolver
from chain.state.state_tree import Actor, StateTree
from chain.state.tipset_events import read_receipts
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import IncludedMessage, load_block_messages, load_tipset_messages
from rpc.json_wire import encoder

_OBJECT_CACHE_BYTES: Final = 64 << 20
_NODE_CACHE_BYTES: Final = 64 << 20
#: changed actors that a view keeps, about 500 bytes each
_CHANGES_KEPT: Final = 20_000
#: changed actors at a time
_PART: Final = 256

#: (ID address, actor before, actor now); None: there is none
Change = tuple[Address, Actor | None, Actor | None]


class TableSource:
    """The chain of a store, for tasks. One for each run; caches are shared by its tipsets."""

    def __init__(self, store: Store, network: NetworkRecord) -> None:
        self.store = store
        self.network = network
        self.objects = Objects(store, cache_bytes=_OBJECT_CACHE_BYTES)
        self.index = ChainIndex(store, self.objects, network)
        self.nodes = NodeCache(_NODE_CACHE_BYTES)
        self.json = encoder(network.address_prefix)

    @classmethod
    async def open(cls, store: Store) -> TableSource:
        """The source over a store. Errors: NotHeld (an empty store), StoreError."""
        network = await load_network(store)
        if network is None:
            raise NotHeld("the network of an empty store")
        return cls(store, network)

    async def head(self) -> Tipset:
        """The head. Errors: NotHeld (the store was never published to)."""
        entry = await self.store.head()
        if entry is None:
            raise NotHeld("a chain: the store has no head yet")
        return await self.tipset(TipsetKey(entry.head.key), entry.head.height)

    async def tipset(self, key: TipsetKey, height: int) -> Tipset:
        """A tipset by its key; `height` names it in the error. Errors: NotHeld."""
        with held(f"the chain at epoch {height}"):
            return await self.index.tipset(key)

    def address(self, address: bytes) -> str:
        """The text of an address with the network's prefix."""
        return Address(address).text(self.network.address_prefix)

    def text_of(self, value: Any) -> str:
        """JSON of a value that may hold CIDs, addresses and bytes, as Lotus writes them."""
        return self.json(value).decode()

    def view(self, tipset: Tipset, child: Tipset | None = None, parent: TipsetView | None = None) -> TipsetView:
        """What tasks read of a tipset. `child`: the next tipset of the chain, `parent`: what was read of the one before
        it, where they are known."""
        if parent is not None and parent.tipset.key == tipset.parents:
            return TipsetView(self, tipset, child, parent)
        return TipsetView(self, tipset, child)


@contextlib.contextmanager
def held(what: str) -> Iterator[None]:
    """An object that the store lacks becomes NotHeld, with `what` it is part of."""
    try:
        yield
    except Missing as error:
        raise NotHeld(f"{what} ({error})") from None


class TipsetView:
    """One tipset, as tasks see it. What is read once is kept, also where the tasks of the next tipset ask at the same
    time. Errors of all methods: NotHeld, BadObject, StoreError."""

    def __init__(
        self, source: TableSource, tipset: Tipset, child: Tipset | None, parent: TipsetView | None = None
    ) -> None:
        self.source = source
        self.tipset = tipset
        self.height = tipset.height
        self._child = child
        self._parent = parent
        self._states: States | None = None
        self._messages: Sequence[IncludedMessage] | None = None
        self._receipts: Sequence[Receipt] | None = None
        self._changes: list[Change] | None = None
        self._reading_states = asyncio.Lock()
        self._reading_messages = asyncio.Lock()
        self._reading_receipts = asyncio.Lock()

    def forget_parent(self) -> None:
        """Its own tasks are done: keep only what the next tipset asks for. Else each view would keep all before it."""
        self._parent = None
        self._changes = None

    @property
    def state_root(self) -> str:
        """Lily's `state_root`: the state before the tipset's messages."""
        return str(self.tipset.parent_state_root)

    async def parent(self) -> TipsetView | None:
        """The parent; None for the genesis."""
        if self.height == 0:
            return None
        if self._parent is None:
            self._parent = TipsetView(self.source, await self.source.index.parent(self.tipset), self.tipset)
        return self._parent

    # --- messages ------------------------------------------------------------------------------------

    async def block_messages(self) -> list[tuple[list[IncludedMessage], list[IncludedMessage]]]:
        """The (BLS, other) messages of each block, also those that belong to several blocks."""
        return [await load_block_messages(self.source.objects, block) for block in self.tipset.blocks]

    async def messages(self) -> Sequence[IncludedMessage]:
        """The messages in the order of execution."""
        async with self._reading_messages:
            if self._messages is None:
                objects = self.source.objects
                with held(f"the messages at epoch {self.height}"):
                    self._messages = await load_tipset_messages(
                        objects, self.tipset, self.source.network, id_resolver(objects)
                    )
            return self._messages

    async def receipts(self) -> Sequence[Receipt]:
        """The receipts of `messages`, in their order. Errors: NotHeld, also where no child is known."""
        async with self._reading_receipts:
            if self._receipts is None:
                self._receipts = await self._read_receipts()
            return self._receipts

    async def _read_receipts(self) -> Sequence[Receipt]:
        child = self._child
        if child is None:
            raise NotHeld(f"the receipts of the tipset at epoch {self.height}: it has no child yet")
        with held(f"the receipts of the tipset at epoch {self.height}"):
            found = await read_receipts(self.source.objects, child.parent_message_receipts)
        messages = await self.messages()
        if len(found) != len(messages):
            raise BadObject(f"epoch {self.height} has {len(messages)} messages, {len(found)} receipts")
        return found

    async def child_states(self) -> States:
        """The actors after the tipset's messages. Errors: NotHeld, also where no child is known."""
        if self._child is None:
            raise NotHeld(f"the state after the tipset at epoch {self.height}: it has no child yet")
        return await self._load_states(self._child)

    # --- states --------------------------------------------------------------------------------------

    async def states(self) -> States:
        """The actors before the tipset's messages."""
        async with self._reading_states:
            if self._states is None:
                self._states = await self._load_states(self.tipset)
            return self._states

    async def _load_states(self, tipset: Tipset) -> States:
        source = self.source
        check = partial(check_code, source.network, tipset.height)
        with held(f"the state at epoch {tipset.height}"):
            tree = await StateTree.load(source.objects, tipset.parent_state_root, source.nodes, check)
        version = source.network.version_at(tipset.height)
        return States(source.objects, tree, version, source.network.address_prefix)

    async def previous_states(self) -> States | None:
        """The actors before the parent's messages; None for the genesis."""
        parent = await self.parent()
        return None if parent is None else await parent.states()

    async def changes(self) -> AsyncIterator[list[Change]]:
        """The actors that differ between the parent's state and this one, some at a time.

        Reads the parts of the two trees that differ. Of the genesis: every actor.
        """
        if self._changes is not None:
            for at in range(0, len(self._changes), _PART):
                yield self._changes[at : at + _PART]
            return
        kept: list[Change] | None = []
        async for part in self._diff():
            if kept is not None:
                kept += part
                if len(kept) > _CHANGES_KEPT:
                    kept = None
            yield part
        self._changes = kept

    async def _diff(self) -> AsyncIterator[list[Change]]:
        now, before = await self.states(), await self.previous_states()
        part: list[Change] = []
        span = f"the state at epoch {self.height}, or at its parent's,"
        with held(span):
            if before is None:
                async for address, actor in now.tree.items():
                    part.append((address, None, actor))
                    if len(part) >= _PART:
                        yield part
                        part = []
            else:
                async for change in before.tree.diff(now.tree):
                    part.append(change)
                    if len(part) >= _PART:
                        yield part
                        part = []
        if part:
            yield part

    async def changed(self, address: Address) -> tuple[Actor | None, Actor | None]:
        """(before, now) of one actor; (None, None) where it has not changed."""
        now, before = await self.states(), await self.previous_states()
        with held(f"the state at epoch {self.height}"):
            (new,) = await now.tree.get_many([address])
        old = None
        if before is not None:
            with held("the state of the parent of epoch " + str(self.height)):
                (old,) = await before.tree.get_many([address])
        return (None, None) if old == new else (old, new)

    async def object(self, cid: Cid) -> bytes:
        """An object of this tipset's state."""
        with held(f"the state at epoch {self.height}"):
            return await self.source.objects.get(cid)
