"""Reads ahead before a follower of a far store takes requests, so that its first answers wait for no round trip.

First the rows of the newest tipsets, then what clients asked the process before this one. Where that is little, as on a
new machine, what clients asked its peers; where that is little too, the newest epochs: their blocks with events, and
the upper nodes of their states. Questions go the way of a request, many at a time, so that whatever a request fills on
its way is filled: rows, objects, decoded values, kept answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import orjson

from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import StoreError
from chain.errors import ChainError
from chain.ipld.dag_cbor import links
from chain.ipld.level_walk import read_upper_nodes, walk_levels
from chain.ipld.objects import Objects
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from follower.ahead.asked_before import AskedBefore, Question
from follower.ahead.peer_questions import ask_peers
from follower.ahead.rows_ahead import read_rows_ahead
from follower.object_tier.peers import PeerSource
from rpc.errors import RpcError
from rpc.json_wire import Text
from rpc.lookup.actor_states import node_cache
from rpc.registry import V0, V1, V2, Cache, Cost
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import READ_ONLY
from rpc.server.metrics import Metrics

log = logging.getLogger(__name__)

A = TypeVar("A")

#: the parts of the time that rows may take, and beside them the peers' questions
_ROWS_PART: Final = 1 / 3
_PEERS_PART: Final = 1 / 3
#: questions that tell what clients ask, so that nothing else is guessed
_ENOUGH: Final = 500
#: questions under way
_TOGETHER: Final = 96
_VERSIONS: Final = (V0, V1, V2)
_V1: Final = 1
#: what is asked again: not what walks whole trees, executes or waits
_COSTS: Final = frozenset({Cost.FREE, Cost.CHAIN, Cost.STATE, Cost.SCAN})
#: newest epochs that are read, a day; those whose objects are read together; those whose blocks are made together
_EPOCHS: Final = 2880
_PART: Final = 32
_BLOCKS_TOGETHER: Final = 16
#: whose questions: this machine's, its peers'
_OWN: Final = "own"
_PEERS: Final = "peers"
#: levels below a state root, and objects of one level of a part
_LEVELS: Final = 6
_LEVEL_OBJECTS: Final = 1024


class StartAhead:
    """`epochs`: the most of the newest ones. `peers`: other followers, asked for what clients asked them where this
    one knows little. `asked`, `blocks`, `states`: how many questions were asked, by whose they were, of how many epochs
    blocks were, and how many objects of states were read."""

    def __init__(self, dispatcher: Dispatcher, epochs: int = _EPOCHS, peers: Sequence[PeerSource] = ()) -> None:
        self._dispatcher = dispatcher
        self._epochs = epochs
        self._peers = peers
        self._services = dispatcher.services
        self.asked = {_OWN: 0, _PEERS: 0}
        self.blocks = self.states = 0
        self.seconds = 0.0

    def register(self, metrics: Metrics) -> None:
        """Tell what was done."""
        metrics.labelled_counter(
            "follower_start_ahead_questions",
            "Clients' questions that the process asked itself before it took requests, by whose they were: this "
            "machine's (own), or its peers'.",
            "of",
            lambda: self.asked,
        )
        metrics.gauge(
            "follower_start_ahead_seconds", "How long the process read ahead when it started.", lambda: self.seconds
        )

    async def run(self, seconds: float, questions: Sequence[Question]) -> None:
        """Read for so many seconds at most. Nobody else may use the dispatcher yet: its counts begin anew."""
        dispatcher, loop = self._dispatcher, asyncio.get_running_loop()
        began = loop.time()
        rows = read_rows_ahead(self._services.store, self._services.index, seconds * _ROWS_PART)
        peers = self._peers if len(questions) < _ENOUGH else ()
        _, of_peers = await asyncio.gather(rows, ask_peers(peers, seconds * _PEERS_PART))
        # own questions are no client's
        gate, dispatcher.gate = dispatcher.gate, None
        try:
            async with asyncio.timeout_at(began + seconds):
                await self._ask(questions, _OWN)
                known = frozenset(questions)
                await self._ask((one for one in of_peers if one not in known), _PEERS)
                if sum(self.asked.values()) < _ENOUGH:
                    await self._read_newest()
        except TimeoutError:
            pass
        except (StoreError, ChainError) as error:
            # who needs it reads it, and says what is wrong
            log.info("nothing more is read ahead: %s", error)
        finally:
            dispatcher.gate = gate
            dispatcher.metrics.clear_methods()
            # what is kept now stays: Python's cycle collector need not look through it
            gc.freeze()
        self.seconds = loop.time() - began
        log.info(
            "read ahead in %.1f s: %d own questions, %d of peers, blocks of %d epochs, %d objects of states",
            self.seconds, self.asked[_OWN], self.asked[_PEERS], self.blocks, self.states,
        )  # fmt: skip

    async def _ask(self, questions: Iterable[Question], whose: str) -> None:
        """Ask them all again, some at a time."""

        async def ask(question: Question) -> None:
            version, body = question
            if self._is_wanted(version, body):
                await self._answer(version, body)
                self.asked[whose] += 1

        await _each(ask, questions, _TOGETHER)

    def _is_wanted(self, version: int, body: bytes) -> bool:
        try:
            value = orjson.loads(body)
            method = self._dispatcher.registry.names(_VERSIONS[version]).get(value["method"])
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            return False
        if method is None or method.cost not in _COSTS or method.channel:
            return False
        # what makes something, as a filter, is no question
        return method.perm in READ_ONLY and method.cache not in (None, Cache.NEVER)

    async def _answer(self, version: int, body: bytes) -> Text:
        """The answer to a question of nobody: what may be read is read, whatever clients without a token may."""
        ctx = self._dispatcher.context(version, READ_ONLY)
        try:
            return (await self._dispatcher.answer_http(version, body, ctx))[1]
        finally:
            ctx.release()

    async def _read_newest(self) -> None:
        head = await self._services.store.head()
        if head is None:
            return
        # what follows from the whole chain, and then one epoch after the other
        await self._ask_one("eth_getBlockByNumber", "finalized", False)
        # the head's own block needs its execution
        top = head.head.height - 1
        low = max(0, top - self._epochs)
        # older states are asked for less than older blocks
        newest = max(low, top - _PART + 1)
        # the state that the head itself names is that before its execution
        await asyncio.gather(self._read_blocks(low, top), self._read_states(newest, head.head.height))
        await self._read_states(low, newest - 1)

    async def _read_blocks(self, low: int, high: int) -> None:
        """Ask for the blocks of some epochs, the newest first. What those of one part need is read together, while the
        part before it is answered."""
        before: Sequence[int] = ()
        for part in _parts(low, high):
            await asyncio.gather(self._read_messages(part), _each(self._read_block, before, _BLOCKS_TOGETHER))
            before = part
        await _each(self._read_block, before, _BLOCKS_TOGETHER)

    async def _read_block(self, height: int) -> None:
        await self._ask_one("eth_getBlockByNumber", hex(height), True)
        answer = await self._ask_one("eth_getBlockByNumber", hex(height), False)
        block = orjson.loads(bytes(answer)).get("result")
        # a null round has none
        if block:
            await self._ask_one("eth_getLogs", {"blockHash": block["hash"]})
        self.blocks += 1

    async def _ask_one(self, method: str, *params: object) -> Text:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return await self._answer(_V1, body)

    async def _read_messages(self, heights: Sequence[int]) -> None:
        """The messages, receipts and events of some epochs, a level of all at a time."""
        roots: list[Cid] = []
        for tipset in await self._tipsets(heights):
            roots.append(tipset.parent_message_receipts)
            roots += [block.messages for block in tipset.blocks]
        try:
            async for _ in self._read_levels(roots):
                pass
        except (StoreError, ChainError) as error:
            # who is asked for these blocks says what is not held
            log.debug("not all messages are read ahead: %s", error)

    async def _read_states(self, low: int, high: int) -> None:
        """The upper objects of the states before some epochs, the newest first, a level of several at a time."""
        try:
            for part in _parts(low, high):
                tipsets = await self._tipsets(part)
                await self._read_maps(tipsets)
                async for count in self._read_levels([tipset.parent_state_root for tipset in tipsets]):
                    self.states += count
        except (StoreError, ChainError) as error:
            # older states are held no more
            log.debug("no more states are read ahead: %s", error)

    async def _read_maps(self, tipsets: Sequence[Tipset]) -> None:
        """The upper nodes of the maps that lead to an actor: by ID, of each state, and by other addresses, of the
        newest. What actors point at comes behind them: there is far more of it than is read. Errors: StoreError."""
        objects, cache = self._services.objects, node_cache(self._dispatcher.context(_V1, READ_ONLY))
        # decoded nodes of older states do not push out those of newer ones
        room = cache if cache.used_bytes < cache.max_bytes // 2 else None
        roots = [tipset.parent_state_root for tipset in tipsets]
        try:
            await objects.get_many(roots)
            trees = [await StateTree.load(objects, root) for root in roots]
            maps = [[tree.actors.root for tree in trees]]
            if trees:
                maps.append([(await trees[0].init_state()).addresses.root])
            for some in maps:
                async for count in read_upper_nodes(objects, some, _LEVELS, _LEVEL_OBJECTS, cache=room):
                    self.states += count
        except ChainError as error:
            # a form of state that this release does not read: its objects are read as they are
            log.debug("the maps of a state are not read ahead: %s", error)

    async def _tipsets(self, heights: Sequence[int]) -> Sequence[Tipset]:
        """Those of the head's chain at these epochs; none where they are held no more, or no head may be served yet."""
        services = self._services
        try:
            newest = (await services.head_source.current()).tipset
            return [await services.index.at_height(newest, height) for height in heights]
        except (StoreError, ChainError, RpcError) as error:
            log.debug("nothing is read ahead for epoch %d and others: %s", heights[0], error)
            return ()

    def _read_levels(self, roots: Sequence[Cid]) -> AsyncIterator[int]:
        return read_levels(self._services.objects, roots, _LEVELS, _LEVEL_OBJECTS)


async def _each(work: Callable[[A], Awaitable[None]], items: Iterable[A], together: int) -> None:
    """`work` of every item, so many under way; the loop has a turn behind each. An error ends them all."""
    waiting = iter(items)

    async def work_on() -> None:
        for item in waiting:
            await work(item)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(together):
            group.create_task(work_on())


def _parts(low: int, high: int) -> Iterator[range]:
    """The epochs from `low` to `high` in parts, the newest first."""
    for top in range(high, low - 1, -_PART):
        yield range(top, max(low, top - _PART + 1) - 1, -1)


def read_levels(objects: Objects, roots: Iterable[Cid], levels: int, most: int) -> AsyncIterator[int]:
    """Read whatever is below some roots (`walk_levels`)."""

    async def read(wanted: list[Cid]) -> list[Cid]:
        below: list[Cid] = []
        for data in await objects.get_many(wanted):
            below += (cid for cid in links(data) if cid.codec == DAG_CBOR)
            await asyncio.sleep(0)
        return below

    return walk_levels((cid for cid in roots if cid.codec == DAG_CBOR), levels, most, read)


async def start_ahead(
    dispatcher: Dispatcher,
    seconds: float,
    folder: Path | None,
    closing: contextlib.AsyncExitStack,
    epochs: int = _EPOCHS,
    peers: Sequence[PeerSource] = (),
) -> None:
    """Read ahead; what is asked from now on is kept in `folder` for the next start, until `closing` is left."""
    before = None if folder is None else AskedBefore(folder)
    ahead = StartAhead(dispatcher, epochs, peers)
    ahead.register(dispatcher.metrics)
    await ahead.run(seconds, [] if before is None else await asyncio.to_thread(before.load))
    if before is not None and dispatcher.answers is not None:
        task = asyncio.create_task(before.keep(dispatcher.answers.questions), name="questions for the next start")

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        closing.push_async_callback(end)
