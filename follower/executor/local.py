"""The virtual machine in this process: threads of its own, objects from the store, facts from the chain's index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import lotus_follower_execution as vm
from cachetools import LRUCache

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.actors.economy import circulating_supply
from chain.actors.load import POWER, States
from chain.consensus.beacon import beacon_entry, blake2b_256, ticket_digest_at
from chain.consensus.fault import find_fault
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.ipld.tree_nodes import NodeCache
from chain.message import decode_message, encode_message
from chain.network import NetworkRecord
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from rpc.errors import CannotExecute, ExecutionRefused
from rpc.executor import Applied, Place, Reward, Run, Step

T = TypeVar("T")

#: the exit code of a message that used all its gas
OUT_OF_GAS = 7

#: seconds that the machine waits for an object or a fact of the chain
_READ_SECONDS = 30.0
_TOO_LONG = "the trace has {} entries, and at most {} are built here (setting execution_trace_entries)"
_AMOUNTS = ("penalty", "miner_tip", "base_fee_burn", "over_estimation_burn", "refund")


class LocalExecutor:
    """An Executor. `threads`: messages at once; `cache_bytes`: objects kept; `state_bytes`: states that runs have made;
    `trace_entries`: the longest trace of messages with a gas cap; `engine`: one whose code is compiled already.

    Errors: those of `rpc.executor.Executor`.
    """

    def __init__(
        self,
        objects: Objects,
        index: ChainIndex,
        network: NetworkRecord,
        *,
        threads: int = 2,
        cache_bytes: int = 256 << 20,
        state_bytes: int = 128 << 20,
        trace_entries: int = 100_000,
        read_now: Callable[[bytes], bytes | None] | None = None,
        engine: vm.Engine | None = None,
    ) -> None:
        self._objects = objects
        self._index = index
        self._network = network
        self._engine = vm.Engine(threads, cache_bytes) if engine is None else engine
        self._pool = ThreadPoolExecutor(threads, "executor")
        self._made: LRUCache[bytes, bytes] = LRUCache(state_bytes, getsizeof=lambda data: len(data) + 100)
        self._trace_entries = trace_entries
        self._read_now = read_now
        self._nodes = NodeCache(32 << 20)
        self._supplies: LRUCache[tuple[Cid, int, int], int] = LRUCache(256)
        self._loop = asyncio.get_running_loop()

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        anchor = await self._index.tipset(place.anchor)
        supply = await self._supply(place)
        arguments = (place, steps, keep_state, objects, anchor, supply)
        return await self._loop.run_in_executor(self._pool, self._run, *arguments)

    async def get(self, cid: bytes) -> bytes:
        """An object, of the store or of a state that was made here. Errors: Missing."""
        made = self._made.get(Cid(cid).multihash)
        return await self._objects.get(cid) if made is None else made

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """Objects, as `get`."""
        return [await self.get(cid) for cid in cids]

    async def _supply(self, place: Place) -> int:
        """attoFIL in circulation, as the machine sees it."""

        async def states(root: Cid, version: int) -> States:
            return States(self, await StateTree.load(self, root, self._nodes), version, self._network.address_prefix)

        async def genesis_pledge() -> int:
            first = await states((await self._index.genesis()).parent_state_root, self._network.version_at(0))
            pledge: int = (await first.load(POWER, "power")).state["TotalPledgeCollateral"]
            return pledge

        root = place.supply_root or place.root
        key = root, place.epoch, place.network_version
        kept = self._supplies.get(key)
        if kept is None:
            here = await states(root, place.network_version)
            kept = self._supplies[key] = (await circulating_supply(here, place.epoch, genesis_pledge)).circulating
        return kept

    def close(self) -> None:
        """Wait for what is running."""
        self._pool.shutdown()

    # --- in a thread of the pool ---------------------------------------------------------------------

    def _run(
        self, place: Place, steps: Sequence[Step | Reward], keep_state: bool, objects: bool, anchor: Tipset, supply: int
    ) -> Run:
        try:
            self._probe(place, anchor, supply, steps)
            machine = self._machine(place, anchor, supply)
            applied: list[Applied] = []
            done: list[Step] = []
            traced = 0
            for step in steps:
                if isinstance(step, Reward):
                    step = step.step(applied[len(applied) - step.messages :])
                found = machine.apply(step.message, step.implicit, step.length)
                if step.gas_cap is not None:
                    # nobody asks for these events, and a message may emit a hundred thousand
                    found["events"] = ()
                    traced += len(found["trace"])
                    if traced > self._trace_entries:
                        raise ExecutionRefused(_TOO_LONG.format(traced, self._trace_entries))
                done.append(step)
                applied.append(_applied(found))
            if not keep_state:
                return Run(tuple(applied), None, tuple(done))
            root, written = machine.flush()
        except vm.NotHeld as error:
            what = error.args[0]
            named = f"an object that execution needs: {Cid(what)}" if type(what) is bytes else str(what)
            raise NotHeld(named) from None
        except vm.ExecutionError as error:
            raise CannotExecute(f"the virtual machine cannot run this: {error}") from None
        for multihash, data in written:
            self._made[multihash] = data
        return Run(tuple(applied), Cid(root), tuple(done), tuple(written) if objects else ())

    def _machine(self, place: Place, anchor: Tipset, supply: int) -> Any:
        return self._engine.machine(
            self._get,
            _Facts(self, anchor, place),
            network_version=place.network_version,
            chain_id=place.chain_id,
            epoch=place.epoch,
            timestamp=place.timestamp,
            base_fee=place.base_fee,
            supply=supply,
            root=bytes(place.root),
            tracing=place.tracing,
        )

    def _probe(self, place: Place, anchor: Tipset, supply: int, steps: Sequence[Step | Reward]) -> None:
        """Run messages with the gas that they may use together, where their limits allow more. A machine cannot be
        stopped, so this comes before they get their own limits. Errors: ExecutionRefused."""
        left = min(
            (step.gas_cap for step in steps if isinstance(step, Step) and step.gas_cap is not None), default=None
        )
        if left is None:
            return
        cap = left
        limits = [decode_message(one.message).gas_limit for one in steps if isinstance(one, Step) and one.gas_cap]
        if sum(limits) <= cap:
            return
        machine = self._machine(replace(place, tracing=False), anchor, supply)
        for step in steps:
            assert isinstance(step, Step)
            if step.gas_cap is None:
                machine.apply(step.message, step.implicit, step.length)
                continue
            message = decode_message(step.message)
            capped = replace(message, gas_limit=min(message.gas_limit, left))
            found = machine.apply(encode_message(capped), step.implicit, step.length)
            left -= found["gas_used"]
            # a call below that ran out of gas leaves its caller a 64th
            if left < cap // 32 or (found["exit_code"] == OUT_OF_GAS and capped.gas_limit < message.gas_limit):
                raise ExecutionRefused(f"the execution uses more than {cap} gas, which is the most allowed here")

    def _get(self, cid: bytes) -> bytes | None:
        multihash = Cid(cid).multihash
        made = self._made.get(multihash)
        if made is not None:
            return made
        if self._read_now is not None:
            found = self._read_now(multihash)
            if found is not None:
                return found
        try:
            return self.wait_for(self._objects.get(cid))
        except Missing:
            return None

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` on the event loop, for a thread of the machine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_READ_SECONDS)

    async def ticket_digest(self, anchor: Tipset, epoch: int) -> bytes:
        """What chain randomness is drawn from."""
        return await ticket_digest_at(self._index, self._network, anchor, epoch)

    async def beacon_digest(self, anchor: Tipset, epoch: int) -> bytes:
        """What beacon randomness is drawn from."""
        return blake2b_256((await beacon_entry(self._index, self._network, anchor, epoch))[1])

    async def tipset_cid(self, anchor: Tipset, epoch: int) -> bytes:
        """The CID of the tipset key at an epoch, or before a null round."""
        return bytes((await self._index.at_height(anchor, epoch)).key.cid)

    async def consensus_fault(
        self, anchor: Tipset, place: Place, one: bytes, other: bytes, extra: bytes
    ) -> tuple[bytes, int, int] | None:
        """(miner, epoch, kind) of the fault that two headers prove; None where they prove none."""
        witnesses = one, other, extra
        found = await find_fault(self, self._index, self._network, anchor, place.root, place.epoch, witnesses)
        return None if found is None else (found.miner, found.epoch, found.kind)


class _Facts:
    """What the machine asks about the chain of `anchor`."""

    def __init__(self, executor: LocalExecutor, anchor: Tipset, place: Place) -> None:
        self._executor = executor
        self._anchor = anchor
        self._place = place
        self._known: LRUCache[tuple[str, int], bytes] = LRUCache(1024)

    def chain_randomness(self, epoch: int) -> bytes:
        return self._fact("ticket", self._executor.ticket_digest, epoch)

    def beacon_randomness(self, epoch: int) -> bytes:
        return self._fact("beacon", self._executor.beacon_digest, epoch)

    def tipset_cid(self, epoch: int) -> bytes:
        return self._fact("tipset", self._executor.tipset_cid, epoch)

    def _fact(self, kind: str, find: Callable[[Tipset, int], Coroutine[Any, Any, bytes]], epoch: int) -> bytes:
        """A contract may ask for the same a hundred thousand times; the event loop is asked once."""
        found = self._known.get((kind, epoch))
        if found is None:
            found = self._known[kind, epoch] = self._executor.wait_for(find(self._anchor, epoch))
        return found

    def consensus_fault(self, one: bytes, other: bytes, extra: bytes) -> tuple[bytes, int, int] | None:
        return self._executor.wait_for(self._executor.consensus_fault(self._anchor, self._place, one, other, extra))


def _applied(found: dict[str, Any]) -> Applied:
    root = found["events_root"]
    return Applied(
        exit_code=found["exit_code"],
        return_=found["return"],
        return_codec=found["return_codec"],
        gas_used=found["gas_used"],
        gas_refund=found["gas_refund"],
        gas_burned=found["gas_burned"],
        events_root=None if root is None else Cid(root),
        events=found["events"],
        failure=found["failure"],
        trace=found["trace"],
        **{name: int(found[name]) for name in _AMOUNTS},
    )
