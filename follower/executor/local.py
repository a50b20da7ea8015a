"""The virtual machine in this process: threads of its own, objects from the store, facts from the chain's index."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

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
from chain.network import NetworkRecord
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from follower.executor.proof_keys import lacking_keys
from follower.executor.wire import FrameBuffer, raise_error, unpack_outcome
from rpc.errors import CannotExecute, ExecutionRefused
from rpc.executor import Applied, Call, Outcome, Place, Reward, Run, Step, pack_trace

T = TypeVar("T")


#: seconds that the machine waits for an object or a fact of the chain
_READ_SECONDS = 30.0
#: places that calls are prepared for: heads, and epochs that clients ask for
_PLACES: Final = 256
#: of the thread that compiles: what else runs goes first. Not more, or a busy machine would not execute for long
_COMPILER_NICENESS: Final = 10
_AMOUNTS = ("penalty", "miner_tip", "base_fee_burn", "over_estimation_burn", "refund")


class LocalExecutor:
    """An Executor. `threads`: messages at once; `cache_bytes`: objects kept; `state_bytes`: states that runs have made;
    `trace_entries`: the longest trace of messages with a gas cap; `message_bytes`: memory that one of these may take;
    `engine`: one whose code is compiled already.

    Errors: those of `rpc.executor.Executor`.
    """

    def __init__(
        self,
        objects: Objects,
        index: ChainIndex,
        network: NetworkRecord,
        *,
        threads: int = 2,
        cache_bytes: int = 64 << 20,
        state_bytes: int = 32 << 20,
        trace_entries: int = 100_000,
        message_bytes: int = 256 << 20,
        read_now: Callable[[bytes], bytes | None] | None = None,
        engine: vm.Engine | None = None,
    ) -> None:
        self._objects = objects
        self._index = index
        self._network = network
        self._engine = vm.Engine(threads, cache_bytes, message_bytes) if engine is None else engine
        self._pool = ThreadPoolExecutor(threads, "executor")
        self._made: LRUCache[bytes, bytes] = LRUCache(state_bytes, getsizeof=lambda data: len(data) + 100)
        self._trace_entries = trace_entries
        self._read_now = read_now
        self._nodes = NodeCache(32 << 20)
        self._supplies: LRUCache[tuple[Cid, int, int], int] = LRUCache(256)
        self._lacking_keys = lacking_keys(network.genesis)
        self._loop = asyncio.get_running_loop()
        self._places: LRUCache[Any, asyncio.Task[vm.CallPlace]] = LRUCache(_PLACES)
        self._askers: dict[int, Callable[[bytes], None]] = {}
        self._last_asker = 0
        self._bell, rung = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(rung, False)
        self._engine.ring(rung)
        self._loop.add_reader(self._bell, self._fetch)
        self._own: _OwnCalls | None = None

    # --- calls -----------------------------------------------------------------------------------------

    async def call(self, place: Place, call: Call) -> Outcome | None:
        """As `rpc.executor.Executor.call`."""
        if self._own is None:
            self._own = _OwnCalls(self)
        return await self._own.call(place, call)

    def add_asker(self, answer: Callable[[bytes], None]) -> int:
        """A number for who submits calls. `answer` takes frames; it is called on the event loop."""
        self._last_asker += 1
        self._askers[self._last_asker] = answer
        return self._last_asker

    def remove_asker(self, asker: int) -> None:
        """Drop the answers of calls that are under way."""
        del self._askers[asker]

    def place_of(self, key: Any, place: Callable[[], Place]) -> asyncio.Task[vm.CallPlace]:
        """Where calls run, prepared once for all that name it by `key`. Errors (of the task): NotHeld, Missing."""
        task = self._places.get(key)
        if task is None or (task.done() and task.exception() is not None):
            task = self._places[key] = self._loop.create_task(self._prepare(place()))
        return task

    async def _prepare(self, place: Place) -> vm.CallPlace:
        anchor = await self._index.tipset(place.anchor)
        return self._engine.place(
            self._get, _Facts(self, anchor, place), **_place_arguments(place, await self._supply(place))
        )

    def submit(self, asker: int, number: int, place: vm.CallPlace, call: Call) -> None:
        """Run a call; `asker` gets a frame with `number`."""
        self._engine.call(
            asker, number, place, call.message, call.signature_bytes, call.skips_sender_check, call.gas_cap
        )

    def _fetch(self) -> None:
        os.read(self._bell, 4096)
        for asker, frames in self._engine.answers():
            answer = self._askers.get(asker)
            if answer is not None:
                answer(frames)

    def running(self) -> list[tuple[float, float]]:
        """Of each message under way: (seconds, CPU seconds)."""
        found: list[tuple[float, float]] = self._engine.running()
        return found

    def waiting(self) -> int:
        """Messages that wait for a thread."""
        found: int = self._engine.waiting()
        return found

    # --- runs ------------------------------------------------------------------------------------------

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        if keep_state and self._lacking_keys and any(isinstance(step, Reward) for step in steps):
            # a whole tipset: its proofs would count as wrong
            raise NotHeld(self._lacking_keys)
        return await self._run_in(self._pool, place, steps, keep_state, objects)

    async def compile(self, place: Place) -> None:
        """Compile the code of the actors at `place`, at a low priority: it takes CPU for seconds. Errors: as `run`."""
        # a thread of its own: without rights a thread cannot get its priority back. Those that the compiler starts
        # inherit it
        pool = ThreadPoolExecutor(1, "compiler", _lower_priority)
        try:
            await self._run_in(pool, place, (), False, False)
        finally:
            pool.shutdown(wait=False)

    async def _run_in(
        self, pool: ThreadPoolExecutor, place: Place, steps: Sequence[Step | Reward], keep_state: bool, objects: bool
    ) -> Run:
        anchor = await self._index.tipset(place.anchor)
        supply = await self._supply(place)
        return await self._loop.run_in_executor(pool, self._run, place, steps, keep_state, objects, anchor, supply)

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
        self._loop.remove_reader(self._bell)
        os.close(self._bell)

    # --- in a thread of the pool ---------------------------------------------------------------------

    def _run(
        self, place: Place, steps: Sequence[Step | Reward], keep_state: bool, objects: bool, anchor: Tipset, supply: int
    ) -> Run:
        try:
            machine = self._machine(place, anchor, supply)
            applied: list[Applied] = []
            done: list[Step] = []
            traced = spent = 0
            for step in steps:
                if isinstance(step, Reward):
                    step = step.step(applied[len(applied) - step.messages :])
                if step.gas_cap is None:
                    found = machine.apply(step.message, step.implicit, step.length)
                else:
                    left = max(0, step.gas_cap - spent)
                    entries = self._trace_entries - traced
                    found = machine.apply(step.message, step.implicit, step.length, left, entries)
                    if not step.events:
                        # a message may emit a hundred thousand, and mostly nobody asks for them
                        found["events"] = ()
                    spent += found["gas_used"]
                    traced += len(found["trace"])
                done.append(step)
                applied.append(_applied(found))
            if not keep_state:
                return Run(tuple(applied), None, tuple(done))
            root, written = machine.flush()
        except vm.NotHeld as error:
            what = error.args[0]
            named = f"an object that execution needs: {Cid(what)}" if type(what) is bytes else str(what)
            raise NotHeld(named) from None
        except vm.Refused as error:
            raise ExecutionRefused(str(error)) from None
        except vm.ExecutionError as error:
            raise CannotExecute(f"the virtual machine cannot run this: {error}") from None
        for multihash, data in written:
            self._made[multihash] = data
            self._engine.keep(multihash, data)
        return Run(tuple(applied), Cid(root), tuple(done), tuple(written) if objects else ())

    def _machine(self, place: Place, anchor: Tipset, supply: int) -> Any:
        return self._engine.machine(
            self._get, _Facts(self, anchor, place), tracing=place.tracing, **_place_arguments(place, supply)
        )

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


def _lower_priority() -> None:
    """Of the calling thread alone, as Linux has it."""
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < _COMPILER_NICENESS:
        os.setpriority(os.PRIO_PROCESS, thread, _COMPILER_NICENESS)


class _OwnCalls:
    """Calls of this process itself: futures instead of frames."""

    def __init__(self, executor: LocalExecutor) -> None:
        self._executor = executor
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._frames = FrameBuffer()
        self._asker = executor.add_asker(self._answer)
        self._last = 0

    async def call(self, place: Place, call: Call) -> Outcome | None:
        prepared = await self._executor.place_of(place, lambda: place)
        self._last += 1
        future = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        self._executor.submit(self._asker, self._last, prepared, call)
        error, found = await future
        if error is not None:
            raise_error(error, found)
        return unpack_outcome(found)

    def _answer(self, frames: bytes) -> None:
        for number, error, found in self._frames.feed(frames):
            future = self._waiting.pop(number)
            if not future.done():
                future.set_result([error, found])


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


def _place_arguments(place: Place, supply: int) -> dict[str, Any]:
    return {
        "network_version": place.network_version,
        "chain_id": place.chain_id,
        "epoch": place.epoch,
        "timestamp": place.timestamp,
        "base_fee": place.base_fee,
        "supply": supply,
        "root": bytes(place.root),
    }


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
        trace=pack_trace(found["trace"]),
        **{name: int(found[name]) for name in _AMOUNTS},
    )
