"""Executing tipsets of the store, for those who compare the result or keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import ObjectStore, Store
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from rpc.executor import Executor
from rpc.lookup.eth.executed_traces import traces_json
from rpc.lookup.tipset_execution import Executed, execute_tipset
from rpc.missing_objects import not_held

#: what is read here is messages; the executor has its own cache
_CACHE_BYTES: Final = 16 << 20


#: of the state and of the receipts after a tipset
Roots = tuple[Cid, Cid]


class ExecutionDiffers(Exception):
    """Executing a tipset gives other roots than its child's header has; the text names the tipset and the roots."""


def require_equal(tipset: Tipset, executed: Roots, chain: Roots) -> None:
    """Compare the roots after a tipset with those in its child's header. Errors: ExecutionDiffers (it is counted)."""
    if executed != chain:
        metrics.EXECUTION_DIFFERENCES.inc()
        raise ExecutionDiffers(
            f"executing the tipset {tipset.key.cid} at epoch {tipset.height} gives {roots_text(executed)}, the header"
            f" of its child has {roots_text(chain)}"
        )


def roots_text(roots: Roots) -> str:
    """Roots for people."""
    return f"state {roots[0]} and receipts {roots[1]}"


@dataclass(frozen=True, slots=True)
class StoredChain:
    """What execution reads of the chain (`rpc.lookup.tipset_execution.Chain`)."""

    index: ChainIndex
    objects: Objects
    network: NetworkRecord


class TipsetExecution:
    """Executes tipsets whose headers, rows, messages and states are stored.

    `reads`: where objects are read, if not in the store alone.
    """

    def __init__(self, store: Store, executor: Executor, reads: ObjectStore | None = None) -> None:
        self._store = store
        self._reads = reads or store
        self._executor = executor
        self._chain: StoredChain | None = None

    async def chain(self) -> StoredChain:
        """The chain of the store, with the newest upgrade schedule. Errors: NotHeld, StoreError."""
        record = await load_network(self._store)
        if record is None:
            raise NotHeld("the network of an empty store")
        if self._chain is None:
            objects = Objects(self._reads, cache_bytes=_CACHE_BYTES)
            self._chain = StoredChain(ChainIndex(self._store, objects, record), objects, record)
        else:
            self._chain.network.take_upgrades(record)
        return self._chain

    async def tipset(self, key: TipsetKey) -> Tipset:
        """A tipset of the store. Errors: NotHeld, StoreError."""
        chain = await self.chain()
        try:
            return await chain.index.tipset(key)
        except Missing as error:
            raise not_held(chain.objects, error) from None

    async def roots_after(self, tipset: Tipset) -> Roots | None:
        """The roots after a tipset that its child's header has; None where no child is known. Errors: StoreError."""
        return await (await self.chain()).index.post(tipset.key)

    async def traces(self, tipset: Tipset) -> bytes:
        """A tipset's `trace_block` answer, JSON. Errors: as `execute`, ExecutionDiffers."""
        chain = await self.chain()
        done = await self.execute(tipset, tracing=True, objects=True)
        wanted = await self.roots_after(tipset)
        if wanted is not None:
            require_equal(tipset, (done.root, done.receipts), wanted)
        try:
            return await traces_json(chain, tipset, done)
        except Missing as error:
            raise not_held(chain.objects, error, f"the traces of the tipset at epoch {tipset.height}") from None

    async def execute(self, tipset: Tipset, *, tracing: bool = False, objects: bool = False) -> Executed:
        """Execute a tipset. Errors: NotHeld, CannotExecute, Unavailable, StoreError."""
        chain = await self.chain()
        try:
            return await execute_tipset(chain, self._executor, tipset, tracing=tracing, objects=objects)
        except Missing as error:
            raise not_held(chain.objects, error, f"what the tipset at epoch {tipset.height} is executed from") from None
