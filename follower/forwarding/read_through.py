"""Read-through: a full node is asked a question about what the store lacks, and the bridge is told to fill it in.

The node is asked for the chain of the request's head: an empty tipset key becomes the head's, a block number the hash
of the block that the head's chain has there. A question that cannot be pinned so, and whose blocks are not final, is
not passed on. Tipsets in answers are compared with their headers, which are fetched by CID and verified by their hash.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

import orjson

from blockstore.cid import parse
from blockstore.errors import BadCid, Missing, StoreError
from chain.consensus.finality import FINALITY
from chain.errors import BadObject, ChainError, NotFound, NotHeld, NullRound
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.index.wanted_epochs import want_epoch
from chain.tipset import Tipset, TipsetKey
from rpc import eth_json, lotus_json
from rpc.context import Context
from rpc.errors import RpcError, Unavailable, forget_frames
from rpc.json_wire import encoder
from rpc.lookup.eth.block_parameter import TAGS, BlockParameter, node_block_parameter, select
from rpc.lookup.eth.trace_filter import TraceFilter
from rpc.lookup.events.actor_event_filter import ActorEventFilter
from rpc.lookup.events.log_filter import LogFilter
from rpc.missing_objects import is_named
from rpc.node_errors import CallFailed, NodeError
from rpc.params import EthUint64, param_of
from rpc.registry import V1, Method
from rpc.server.gate.lookbacks import named_epochs
from rpc.server.metrics import Metrics
from rpc.server.request import Call, Run
from rpc.services import NodeClient

log = logging.getLogger(__name__)

#: headers that a search by epoch fetches one after the other; for what lies deeper the node is asked
LONGEST_WALK: Final = 64
#: methods that look for a hash in an index and answer null where it is not there
_BY_HASH: Final = frozenset(
    {
        "EthGetTransactionByHash", "EthGetTransactionByHashLimited", "EthGetTransactionReceipt",
        "EthGetTransactionReceiptLimited", "EthGetMessageCidByTransactionHash", "StateSearchMsg",
        "StateSearchMsgLimited", "StateGetReceipt",
    }
)  # fmt: skip
#: methods that look for the execution of a message
_WAITS: Final = frozenset({"StateWaitMsg", "StateWaitMsgLimited"})
_SEARCHES: Final = _WAITS | {"StateSearchMsg", "StateSearchMsgLimited", "StateGetReceipt"}
#: methods for which a null round has no block
_STRICT: Final = frozenset({"EthGetBlockReceipts", "EthGetBlockReceiptsLimited"})
#: methods of a block by its number, and those that take its hash instead
_BY_NUMBER: Final = {
    "EthGetBlockByNumber": "EthGetBlockByHash",
    "EthGetBlockTransactionCountByNumber": "EthGetBlockTransactionCountByHash",
    "EthGetTransactionByBlockNumberAndIndex": "EthGetTransactionByBlockHashAndIndex",
}
_TIPSET: Final = {"Cids", "Blocks", "Height"}
_NUMBER: Final = param_of("block", EthUint64)
#: what a node says that lacks it too
_LACKS: Final = re.compile(r"could not find|block not found|load(ing)? tipset|not held|lookback")


class ReadThrough:
    """Answers by `node` what the store cannot. Tells the bridge which of the newest `fill_epochs` epochs are wanted."""

    def __init__(self, node: NodeClient, *, fill_epochs: int, address_prefix: str) -> None:
        self._node = node
        self._fill_epochs = fill_epochs
        self._encode = encoder(address_prefix)
        #: questions that a node answered; answers that were not what their hashes say; epochs that the bridge was told
        self.answered = 0
        self.refused = 0
        self.wanted = 0

    async def run(self, run: Run, ctx: Context, call: Call, params: Any) -> Any:
        """The result of a call: `run`'s, or a full node's where that lacks something. Errors: those of `run`."""
        try:
            result = await run(ctx, call)
        except (NotHeld, NotFound, Missing) as error:
            if isinstance(error, Missing) and is_named(call.arguments, error.key):
                raise
            found = await self._ask(ctx, call, params)
            if found is None:
                raise
            forget_frames(error)
            return found[0]
        if result is None and call.method.field in _BY_HASH and not await _is_whole(ctx):
            found = await self._ask(ctx, call, params)
            return None if found is None else found[0]
        return result

    async def _ask(self, ctx: Context, call: Call, params: Any) -> tuple[Any] | None:
        """A node's answer; None where none may be asked, or none can answer. Errors: CallFailed, _Refused."""
        method = call.method
        if method.perm != "read" or method.raw or method.answered in ("local", "forwarded"):
            return None
        try:
            head = (await ctx.head()).tipset
            question = await self._pinned(ctx, method, call.arguments, list(params or ()), head)
            if question is None:
                return None
            # what a node answers is not kept
            ctx.asked_node = True
            answer = await self._node.call(*question, head)
            if not await self._fits(ctx, call, answer, head):
                return None
            await self._want(ctx, call, answer, head)
            if method.field in _SEARCHES and answer is not None:
                answer = await self._execution(call, answer, head, ctx.search_limit)
            self.answered += 1
        except NullRound:
            raise
        except CallFailed as error:
            if _LACKS.search(error.message):
                return None
            raise
        except (NodeError, ChainError, StoreError) as error:
            log.debug("%s is not read through: %s", method.name, error)
            return None
        except RpcError as error:
            if isinstance(error, _Refused):
                raise
            log.debug("%s is not read through: %s", method.name, error)
            return None
        return (answer,)

    # --- the question ------------------------------------------------------------------------------------------

    async def _pinned(
        self, ctx: Context, method: Method, arguments: list[Any], params: list[Any], head: Tipset
    ) -> tuple[str, list[Any]] | None:
        """(method, parameters) that name a tipset of `head`'s chain; None where that cannot be.

        Errors: NodeError, RpcError, ChainError, StoreError.
        """
        name = method.name
        if method.field in _SEARCHES:
            return "Filecoin.StateSearchMsg", _search(method, arguments, head, ctx.search_limit)
        if not method.versions & V1:
            return None
        final = head.height - FINALITY
        has_key = any(isinstance(value, TipsetKey) for value in arguments)
        for place, (param, value) in enumerate(zip(method.params, arguments, strict=True)):
            if isinstance(value, TipsetKey):
                if not value:
                    params[place] = [{"/": str(cid)} for cid in head.key.cids]
            elif isinstance(value, BlockParameter):
                if value.hash is None:
                    at = await self._block(ctx, value, head)
                    if at is None:
                        return None
                    if value.number not in (None, at.height) and method.field in _STRICT:
                        raise NullRound(value.number or 0)
                    params[place] = node_block_parameter(at)
            elif isinstance(value, LogFilter | TraceFilter):
                digest = value.block_hash if isinstance(value, LogFilter) else None
                if digest is None and not (_is_below(value.low, final) and _is_below(value.high, final)):
                    return None
            elif isinstance(value, ActorEventFilter):
                ends = (value.low, value.high)
                if not value.key and any(end is None or not 0 <= end <= final for end in ends):
                    return None
            elif param.go == "string" and param.name == "block":
                if value in TAGS:
                    return None
                at = await self._block(ctx, BlockParameter(number=int(_NUMBER.decode(value))), head)
                if at is not None and method.field in _BY_NUMBER:
                    if at.height != int(_NUMBER.decode(value)):
                        raise NullRound(int(_NUMBER.decode(value)))
                    params[place] = eth_json.data(at.key.block_hash)
                    name = f"Filecoin.{_BY_NUMBER[method.field]}"
                elif not _is_below(value, final):
                    return None
            elif param.go == "types.TipSetSelector" or (
                param.go == "abi.ChainEpoch" and not has_key and not 0 <= value <= final
            ):
                return None
        return name, params

    async def _block(self, ctx: Context, block: BlockParameter, head: Tipset) -> Tipset | None:
        """The tipset that a number or a tag names on `head`'s chain; None for what is above it."""
        if block.number is None:
            return await select(ctx, block)
        if block.number >= head.height:
            return None
        try:
            return await select(ctx, block)
        except NotHeld:
            key = [{"/": str(cid)} for cid in head.key.cids]
            answer = await self._node.call("Filecoin.ChainGetTipSetByHeight", [block.number, key], head)
            tipset = await self._verify(ctx, answer)
            return tipset if tipset is not None and tipset.height <= block.number else None

    # --- the answer --------------------------------------------------------------------------------------------

    async def _fits(self, ctx: Context, call: Call, answer: Any, head: Tipset) -> bool:
        """Whether an answer belongs to `head`'s chain, as far as it tells. Errors: _Refused; as `_pinned`."""
        await self._verify(ctx, answer)
        field = call.method.field
        if field in _SEARCHES:
            if answer is None:
                # one who waits must not be told that there is nothing
                return field not in _WAITS
            return (_epoch_of(answer) or 0) + int(_value(call, "confidence") or 0) <= head.height
        if field not in _BY_HASH or field == "EthGetMessageCidByTransactionHash" or not isinstance(answer, dict):
            return True
        epoch = _epoch_of(answer)
        if epoch is None:
            return False
        at = await self._block(ctx, BlockParameter(number=epoch), head)
        return at is not None and answer.get("blockHash") == eth_json.data(at.key.block_hash)

    async def _verify(self, ctx: Context, answer: Any) -> Tipset | None:
        """The tipset that an answer is; None where it is none. Errors: _Refused (it is not what its CIDs say)."""
        if not isinstance(answer, dict) or answer.keys() != _TIPSET:
            return None
        try:
            tipset = await ctx.index.tipset(TipsetKey.of(parse(cid["/"]) for cid in answer["Cids"]))
        except (BadCid, BadObject, StoreError, KeyError, TypeError) as error:
            raise self._refuse(f"no header: {error}") from None
        if orjson.loads(self._encode(lotus_json.tipset(tipset))) != answer:
            raise self._refuse(f"another tipset than {tipset.key}")
        return tipset

    async def _execution(self, call: Call, found: dict[str, Any], head: Tipset, limit: int) -> Any:
        """What the method answers where a search has found the execution. Errors: NodeError, _Refused."""
        if call.method.field == "StateGetReceipt":
            return found["Receipt"]
        if call.method.field not in _WAITS:
            return found
        # it is deep enough: the node does not wait either; its answer has the decoded return value too
        _, *rest = _search(call.method, call.arguments, head, limit)
        answer = await self._node.call("Filecoin.StateWaitMsg", [rest[0], _value(call, "confidence"), *rest[1:]], head)
        if {**answer, "ReturnDec": None} != {**found, "ReturnDec": None}:
            raise self._refuse("another execution than its search found")
        return answer

    def _refuse(self, why: str) -> _Refused:
        self.refused += 1
        log.warning("a full node's answer is refused: it has %s", why)
        return _Refused("the full node's answer is not what its CIDs say")

    async def _want(self, ctx: Context, call: Call, answer: Any, head: Tipset) -> None:
        """Tell the bridge which epochs the question was about, where it may fill them."""
        if not self._fill_epochs:
            return
        epochs = [epoch async for epoch in named_epochs(ctx, call)]
        told = _epoch_of(answer)
        if told is not None:
            epochs.append(told)
        lowest = max(0, head.height - self._fill_epochs)
        ranges = await covered(ctx.store, MESSAGES_INDEX)
        lacking = [
            epoch
            for epoch in epochs
            if lowest <= epoch < head.height and not any(low <= epoch <= high for low, high in ranges)
        ]
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
            "follower_read_through", "Questions about what the store lacks that a node answered.", lambda: self.answered
        )
        metrics.counter(
            "follower_read_through_refused",
            "Answers of nodes to such questions that were not what their CIDs say.",
            lambda: self.refused,
        )
        metrics.counter(
            "follower_read_through_wanted",
            "How often the bridge was told to fill the store down to a lower epoch.",
            lambda: self.wanted,
        )


class _Refused(Unavailable):
    """An answer that is not what its CIDs say."""


def _is_below(text: str | None, epoch: int) -> bool:
    """Whether a block is a number, not above an epoch."""
    if not text or text in TAGS:
        return False
    try:
        return int(_NUMBER.decode(text)) <= epoch
    except ValueError:
        return False


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


def _value(call: Call, name: str) -> Any:
    """The argument of this name; None where the method has none."""
    places = [place for place, param in enumerate(call.method.params) if param.name == name]
    return call.arguments[places[0]] if places else None


def _search(method: Method, arguments: list[Any], head: Tipset, limit: int) -> list[Any]:
    """The parameters of `StateSearchMsg` under /rpc/v1 for any of the methods that look for a message.

    `limit`: of the forms of v0 that take none.
    """
    given = {param.name: value for param, value in zip(method.params, arguments, strict=True)}
    key = given.get("key") or head.key
    links = [{"/": str(cid)} for cid in key.cids]
    return [links, {"/": str(given["message"])}, given.get("limit", limit), given.get("allow_replaced", True)]
