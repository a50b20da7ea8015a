"""Read-through: a question about what the store lacks is answered here from objects that full nodes give.

The method runs a second time, over a chain that goes on below the store (`unheld_chain`) and rows that nodes name
(`unheld_rows`). All objects are fetched by CID and verified by their hash: headers are linked to the request's head,
messages and receipts are those that the headers name, events those that the receipts name. What a virtual machine makes
(traces, executions) is a node's word, as where the store holds the epoch. The bridge is told to fill in what was asked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Final, Protocol

from blockstore.errors import Missing, StoreError
from chain.consensus.ancestry import Ancestry
from chain.errors import ChainError, NotFound, NotHeld, NullRound
from chain.index.coverage import MESSAGES_INDEX, contains, covered
from chain.index.wanted_epochs import want_epoch
from chain.tipset import Tipset
from follower.forwarding.other_services import with_services
from follower.forwarding.route import LACKS
from follower.forwarding.unheld_chain import Ask, Lies, UnheldChain
from follower.forwarding.unheld_rows import UnheldRows
from rpc.context import Context
from rpc.errors import RpcError, forget_frames
from rpc.missing_objects import is_named
from rpc.node_errors import CallFailed, NodeError
from rpc.registry import Method
from rpc.server.gate.lookbacks import named_epochs
from rpc.server.metrics import Metrics
from rpc.server.request import Call, Run
from rpc.services import CacheSizes, NodeClient, Services

log = logging.getLogger(__name__)

#: headers that a search by epoch fetches one after the other, before read-through begins
LONGEST_WALK: Final = 64
#: epochs of the newest part of the chain that `Ancestry` keeps beside the rows
_TRUNK: Final = 128
#: methods that look for a hash in an index and answer null where it is not there
_BY_HASH: Final = frozenset(
    {
        "EthGetTransactionByHash", "EthGetTransactionByHashLimited", "EthGetTransactionReceipt",
        "EthGetTransactionReceiptLimited", "EthGetMessageCidByTransactionHash", "StateSearchMsg",
        "StateSearchMsgLimited", "StateGetReceipt",
    }
)  # fmt: skip
#: methods about the store itself, of which nodes know nothing
_OF_THE_STORE: Final = frozenset({"ChainValidateIndex", "EthNewFilter", "EthGetFilterChanges"})
_CACHE_BYTES: Final = 4 << 20
_NOT_FOUND: Final = "X-Filecoin-Not-Found"


class Nodes(NodeClient, Protocol):
    """The route to the full nodes. `follower/forwarding/route.py` has the real one."""

    @property
    def one_by_one(self) -> Ask:
        """Asks one node after the other."""


class ReadThrough:
    """Answers what the store cannot. Tells the bridge which of the newest `fill_epochs` epochs are wanted.

    `link_epochs`: how many epochs below the store's chain headers are linked, see `UnheldChain`.
    """

    def __init__(self, nodes: Nodes, services: Services, *, fill_epochs: int, link_epochs: int) -> None:
        self._node = nodes
        self.fill_epochs = fill_epochs
        self.lies = Lies()
        self._chain = UnheldChain(
            services.store, services.objects, services.network, nodes.one_by_one, self.lies, link_epochs=link_epochs
        )
        # caches of their own: what was found over this chain must not be taken for what the store holds
        caches = {"ancestry": Ancestry(self._chain, depth=_TRUNK)}
        sizes = CacheSizes.all_of(_CACHE_BYTES)
        self._services = replace(services, index=self._chain, caches=caches, cache_sizes=sizes)
        #: questions that were answered so; how often the bridge was told
        self.answered = 0
        self.wanted = 0

    async def run(self, run: Run, ctx: Context, call: Call, params: Any) -> Any:
        """The result of a call: `run`'s, or one that full nodes help to find. Errors: those of `run`."""
        field = call.method.field
        had_header = _NOT_FOUND in (ctx.headers or ())
        try:
            result = await run(ctx, call)
        except (ChainError, StoreError, RpcError, NodeError) as error:
            # a node's own error: it was asked for a pending transaction, because none was found on chain
            is_lost = _tells_absence(error, call) or (field in _BY_HASH and isinstance(error, NodeError))
            if not (is_lost and _may_ask(call.method)):
                raise
            found = await self._answer(run, ctx, call)
            if found is None:
                raise
            forget_frames(error)
            return found[0]
        if result is None and field in _BY_HASH and not await _is_whole(ctx):
            said = None if had_header or not ctx.headers else ctx.headers.pop(_NOT_FOUND, None)
            found = await self._answer(run, ctx, call)
            if found is not None:
                return found[0]
            if said and ctx.headers is not None:
                # null says nothing without it: no node could tell
                ctx.headers[_NOT_FOUND] = said
        return result

    async def _answer(self, run: Run, ctx: Context, call: Call) -> tuple[Any] | None:
        """An answer with the help of nodes; None where there is none. Errors: the method's own."""
        # what comes from nodes is not kept
        ctx.asked_node = True
        try:
            head = (await ctx.pin_head()).tipset
            found, epochs = await self._over_all(run, ctx, call, head)
            if found is not None:
                await self._want(ctx, epochs, found[0], head)
                self.answered += 1
            return found
        except NullRound:
            raise
        except CallFailed as error:
            if LACKS.search(error.message):
                return None
            raise
        except (NodeError, StoreError, NotHeld) as error:
            log.debug("%s is not read through: %s", call.method.name, error)
            return None

    async def _over_all(self, run: Run, ctx: Context, call: Call, head: Tipset) -> tuple[tuple[Any] | None, list[int]]:
        """The method's result over the chain below the store, and the epochs that it was about.

        Errors: the method's own, but for those that say that something is not held.
        """
        rows = UnheldRows(
            ctx.store, ctx.objects, self._chain, head, self._node.one_by_one, self.lies, ctx.network.eth_chain_id
        )
        there = with_services(ctx, replace(self._services, store=rows))
        epochs: list[int] = []
        try:
            epochs = [min(epoch, head.height) async for epoch in named_epochs(there, call) if epoch >= 0]
            if epochs:
                await self._link(head, min(epochs), max(epochs))
            return (await run(there, call),), epochs + rows.epochs
        except (NotHeld, Missing, StoreError) as error:
            log.debug("%s is not answered from objects: %s", call.method.name, error)
            return None, epochs + rows.epochs

    async def _link(self, head: Tipset, low: int, high: int) -> None:
        """Link the headers of a range and of the epoch above it, as far as that can be. Errors: StoreError."""
        try:
            top = await self._chain.at_height(head, min(high + 1, head.height), previous=False)
            await self._chain.link(top, low)
        except NotHeld as error:
            # the method may need less of it
            log.debug("the chain from epoch %d to %d: %s", low, high, error)

    # --- filling -----------------------------------------------------------------------------------------------

    async def _want(self, ctx: Context, epochs: list[int], answer: Any, head: Tipset) -> None:
        """Tell the bridge which epochs the question was about, where it may fill them."""
        if not self.fill_epochs:
            return
        told = _epoch_of(answer)
        if told is not None:
            epochs.append(told)
        lowest = max(0, head.height - self.fill_epochs)
        ranges = await covered(ctx.store, MESSAGES_INDEX)
        lacking = [epoch for epoch in epochs if lowest <= epoch < head.height and not contains(ranges, epoch)]
        if not lacking:
            return
        try:
            self.wanted += await want_epoch(ctx.store, min(lacking))
        except StoreError as error:
            # a store that followers may only read: it is asked of the node each time
            log.debug("epoch %d is not asked for: %s", min(lacking), error)

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.counter(
            "follower_read_through",
            "Questions about what the store lacks that were answered with the help of nodes.",
            lambda: self.answered,
        )
        metrics.counter(
            "follower_read_through_refused",
            "Answers of nodes to such questions that were proved wrong.",
            lambda: self.lies.count,
        )
        metrics.counter(
            "follower_read_through_wanted",
            "How often the bridge was told to fill the store down to a lower epoch.",
            lambda: self.wanted,
        )


def _tells_absence(error: BaseException | None, call: Call) -> bool:
    """Whether something is not held or not found: by an error, or by the one that a method has made its own of."""
    while error is not None:
        if isinstance(error, NotHeld | NotFound):
            return True
        if isinstance(error, Missing):
            return not is_named(call.arguments, error.key)
        error = error.__cause__
    return False


def _may_ask(method: Method) -> bool:
    return method.perm == "read" and method.answered not in ("local", "forwarded") and method.field not in _OF_THE_STORE


def _epoch_of(answer: Any) -> int | None:
    """The epoch that an answer names: of a tipset, an executed message, a transaction, a block."""
    if not isinstance(answer, dict):
        return None
    for name in ("Height", "blockNumber", "number"):
        value = answer.get(name)
        if type(value) is int:
            return value
        if isinstance(value, str) and value.startswith("0x"):
            try:
                return int(value, 16)
            except ValueError:
                return None
    return None


async def _is_whole(ctx: Context) -> bool:
    """Whether the index reaches from the genesis to the head: what is not in it is nowhere."""
    ranges = await covered(ctx.store, MESSAGES_INDEX)
    return bool(ranges) and ranges[0][0] == 0 and ranges[0][1] >= (await ctx.head()).tipset.height
