"""A store as a chain for Python programs: read only, typed. `follower.open` makes it; docs/python.md is its page.

Like `State*` methods of Lotus, actors are those *before* a tipset's messages unless another tipset is named; messages,
receipts and events of a tipset are its own, so receipts and events need a child of it to be known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from blockstore.cid import Cid
from blockstore.errors import StoreUnavailable, Unfinished
from blockstore.open import open_store
from blockstore.store import META, HeadEntry, Store
from chain.actors.load import States, WrongKind, kind_of_code
from chain.actors.methods import BY_MANIFEST
from chain.address import Address, parse
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import Objects
from chain.message import Receipt
from chain.network import NetworkRecord, load_network
from chain.state.state_tree import Actor
from chain.state.tipset_events import TipsetEvent, load_tipset_events
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import IncludedMessage
from follower.head import StoreHeads
from rpc.context import Context
from rpc.lookup.actor_states import load_tree, states_of
from rpc.lookup.eth.executed_tipset import PostRoots, find_post_roots, load_receipts
from rpc.lookup.tipset_inclusion import included_in
from rpc.release import agent
from rpc.services import Head, Services

#: epochs of a walk whose rows are read together
_PAGE = 128


@dataclass(frozen=True, slots=True)
class ActorState:
    """An actor with its decoded state. `kind`: the name in the actors' manifest, such as "storageminer"; `version`: of
    the actors; `state`: the fields by name, decoded (amounts are integers in attoFIL, links are CIDs)."""

    actor: Actor
    kind: str
    version: int
    state: dict[str, Any]


class CallFailed(Exception):
    """A method answered an error. `code`: of JSON-RPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Chain:
    """A store that is open for reading. Make it with `follower.open`.

    Every method may raise StoreUnavailable, and NotHeld or Missing for what the store does not hold.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def network(self) -> NetworkRecord:
        """The network: its name, genesis and upgrade schedule."""
        return self._services.network

    async def head_entry(self) -> HeadEntry:
        """The newest entry of the head log. Errors: NotHeld (nothing was published yet)."""
        entry = await self._services.store.head()
        if entry is None:
            raise NotHeld("any head: nothing has been published to this store yet")
        return entry

    async def head(self) -> Tipset:
        """The head. Errors: NotHeld (nothing was published yet)."""
        return (await self._services.head_source.current()).tipset

    async def tipset(self, key: TipsetKey | Sequence[Cid]) -> Tipset:
        """The tipset of these blocks. Errors: Missing."""
        return await self._services.index.tipset(TipsetKey.of(key) if not isinstance(key, bytes) else key)

    async def tipset_at(self, epoch: int, *, of: Tipset | None = None) -> Tipset:
        """The ancestor of `of` (None: of the head) at an epoch; in a null round, the nearest one before it.

        Errors: ValueError (an epoch below 0 or above the tipset), NotHeld.
        """
        anchor = of or await self.head()
        if not 0 <= epoch <= anchor.height:
            raise ValueError(f"epoch {epoch} is not between 0 and {anchor.height}")
        return await self._services.index.at_height(anchor, epoch)

    async def tipsets(self, low: int, high: int, *, of: Tipset | None = None) -> AsyncIterator[Tipset]:
        """The tipsets at epochs `low` to `high`, both included, oldest first, on the chain of `of` (None: the head).

        Errors: as `tipset_at`.
        """
        anchor = of or await self.head()
        for start in range(low, high + 1, _PAGE):
            end = min(start + _PAGE - 1, high)
            page: list[Tipset] = []
            at = await self.tipset_at(end, of=anchor)
            while at.height >= start:
                page.append(at)
                if at.height == 0:
                    break
                at = await self._services.index.parent(at)
            for tipset in reversed(page):
                yield tipset

    async def actor(self, address: Address | str, *, at: Tipset | None = None) -> Actor:
        """An actor: code, head, nonce, balance (attoFIL), before the messages of `at` (None: the head).

        Errors: ActorNotFound, BadAddress.
        """
        return await (await self._states(at)).actor(_address(address))

    async def state(self, address: Address | str, *, at: Tipset | None = None) -> ActorState:
        """An actor with its state, decoded. Errors: as `actor`; WrongKind (no built-in actor), UnknownActors."""
        states = await self._states(at)
        actor = await states.actor(_address(address))
        found = await kind_of_code(states.tree, actor.code, states.network_version)
        if found is None:
            raise WrongKind(f"unknown actor code {actor.code}")
        name, version = found
        kind = BY_MANIFEST[name]
        state: dict[str, Any] = {}
        if kind.has_state:
            state = kind.type("State", version).decode(decode(await states.reader.get(actor.head)))
        return ActorState(actor, name, version, state)

    async def messages(self, tipset: Tipset) -> list[IncludedMessage]:
        """The messages of a tipset, each once, in the order of execution."""
        return list(await included_in(Context(self._services), tipset))

    async def receipts(self, tipset: Tipset) -> list[Receipt]:
        """The receipts of a tipset's messages, in their order. Errors: NotHeld (no child of it is known yet)."""
        return await load_receipts(Context(self._services), tipset, await self._post(tipset))

    async def events(self, tipset: Tipset) -> list[TipsetEvent]:
        """The events that a tipset's messages emitted, in order. Errors: as `receipts`."""
        ctx = Context(self._services)
        post = await self._post(tipset)
        receipts = await load_receipts(ctx, tipset, post)
        tree = await load_tree(ctx, post.state, tipset.height + 1)
        return await load_tipset_events(ctx.objects, receipts, tree)

    async def object(self, cid: Cid) -> bytes:
        """The bytes of an object. Errors: Missing."""
        return await self._services.objects.get(cid)

    async def call(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC method of /rpc/v1, as JSON, answered here. Errors: CallFailed."""
        # declares every method: a program that calls none does not pay for it
        from rpc.methods import register_all
        from rpc.server.dispatch import Dispatcher

        register_all()
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        answer = orjson.loads((await Dispatcher(self._services).http(1, body))[1])
        if "error" in answer:
            raise CallFailed(answer["error"]["code"], answer["error"]["message"])
        return answer.get("result")

    def context_at_head(self, head: Head) -> Context:
        """What the look-ups of `rpc.lookup` take, with this head."""
        ctx = Context(self._services)
        ctx.pinned = head
        return ctx

    async def newest(self) -> Head:
        """The head with its entry of the head log. Errors: NotHeld."""
        return await self._services.head_source.current()

    @property
    def store(self) -> Store:
        """The store itself."""
        return self._services.store

    async def _states(self, at: Tipset | None) -> States:
        return await states_of(Context(self._services), at or await self.head())

    async def _post(self, tipset: Tipset) -> PostRoots:
        post = await find_post_roots(Context(self._services), tipset)
        if post is None:
            raise NotHeld(f"the receipts of the tipset at epoch {tipset.height}: no child of it is known yet")
        return post


def _address(address: Address | str) -> Address:
    return parse(address) if isinstance(address, str) else address


@asynccontextmanager
async def chain_over(store: Store, *, cache_bytes: int = 64 << 20) -> AsyncIterator[Chain]:
    """A chain over a store that somebody else closes. Errors: StoreUnavailable (it names no network), Unfinished."""
    network = await load_network(store)
    if network is None:
        raise StoreUnavailable(f"the store {store.url} names no network yet: has a bridge or an import begun?")
    if await store.row(META, b"", b"import") is not None:
        raise Unfinished(f"the store {store.url} holds an import that has not ended")
    objects = Objects(store, cache_bytes=cache_bytes)
    index = ChainIndex(store, objects, network)
    heads = StoreHeads(store, index)
    services = Services(
        store=store, index=index, objects=objects, network=network, head_source=heads, agent=agent()
    )  # fmt: skip
    try:
        yield Chain(services)
    finally:
        await heads.close()


@asynccontextmanager
async def open_chain(url: str, *, cache_bytes: int = 64 << 20) -> AsyncIterator[Chain]:
    """See `follower.open`."""
    store = await open_store(url, readonly=True)
    try:
        async with chain_over(store, cache_bytes=cache_bytes) as chain:
            yield chain
    finally:
        await store.close()
