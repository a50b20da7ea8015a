"""A share of the answers is checked: a full node is asked the same, at the same tipset, and the two are compared."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final, Protocol

import orjson

from blockstore.errors import StoreError
from chain.errors import ChainError
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import RpcError
from rpc.json_wire import Text, key_json
from rpc.lookup.eth.block_parameter import BlockParameter, node_block_parameter, select
from rpc.node_errors import NodeError
from rpc.registry import Cache, Method
from rpc.server.metrics import Metrics
from rpc.services import NodeClient

log = logging.getLogger("follower.shadow")

#: comparisons under way; more answers are not compared
_AT_ONCE: Final = 4
#: the largest answer that is compared, bytes: parsing it keeps the event loop
_LARGEST: Final = 256 << 10
#: characters of a difference that the log shows, and lines about differences in a process' life for each method
_SHOWN: Final = 300
_LINES: Final = 20
#: /rpc/v1: the path under which a full node is asked
_V1: Final = 1


class AnsweredCall(Protocol):
    """A method and its decoded parameters."""

    method: Method
    arguments: list[Any]


class Shadow:
    """Compares a `share` (0 to 1) of the answers that this process makes. Kept answers were compared when made."""

    def __init__(self, node: NodeClient, share: float, chance: random.Random | None = None) -> None:
        self._node = node
        self._share = share
        self._chance = chance or random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: dict[str, int] = {}
        self.compared = 0
        self.different = 0
        #: the node did not answer, or answered with an error
        self.unanswered = 0

    def look(self, ctx: Context, call: AnsweredCall, params: Any, text: Text) -> None:
        """Compare this answer by chance. `params`: as they came; `text`: the result's JSON."""
        if self._chance.random() >= self._share or len(self._tasks) >= _AT_ONCE or len(text) > _LARGEST:
            return
        if ctx.version != _V1 or not isinstance(params, list) or not _is_comparable(call):
            return
        task = asyncio.create_task(self._compare(ctx, call, params, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until no comparison is under way."""
        await asyncio.gather(*self._tasks)

    async def _compare(self, ctx: Context, call: AnsweredCall, params: list[Any], text: Text) -> None:
        name = call.method.name
        try:
            pinned, at = await _pinned(ctx, call, params)
            theirs = await self._node.call(name, pinned, at)
        except (NodeError, RpcError, ChainError, StoreError) as error:
            self.unanswered += 1
            log.debug("%s was not compared: %s", name, error)
            return
        self.compared += 1
        ours = orjson.loads(bytes(text))
        if ours == theirs:
            return
        self.different += 1
        lines = self._lines[name] = self._lines.get(name, 0) + 1
        if lines <= _LINES:
            shown = orjson.dumps(pinned).decode()[:_SHOWN]
            where = first_difference(ours, theirs)
            log.warning("%s at epoch %d differs from a full node's answer: %s (%s)", name, at.height, where, shown)

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.counter("follower_shadow_compared", "Answers compared with a full node's.", lambda: self.compared)
        metrics.counter("follower_shadow_different", "Answers that differ from a full node's.", lambda: self.different)
        metrics.counter(
            "follower_shadow_unanswered",
            "Answers that were to be compared, and that the full node did not give.",
            lambda: self.unanswered,
        )

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _is_comparable(call: AnsweredCall) -> bool:
    """Whether a node can be asked the same question: by a tipset, or by what never changes."""
    method = call.method
    if method.raw or method.perm != "read" or method.answered in ("local", "forwarded"):
        return False
    if any(isinstance(value, TipsetKey | BlockParameter) for value in call.arguments):
        return True
    return method.cache is Cache.IMMUTABLE


async def _pinned(ctx: Context, call: AnsweredCall, params: list[Any]) -> tuple[list[Any], Tipset]:
    """The parameters with the request's tipset in the place of "the head", and the tipset that a node must hold."""
    at = (await ctx.head()).tipset
    pinned = list(params)
    for place, value in enumerate(call.arguments):
        if isinstance(value, BlockParameter):
            pinned[place] = node_block_parameter(await select(ctx, value))
        elif isinstance(value, TipsetKey) and not value:
            pinned[place] = key_json(at.key)
    return pinned, at


def first_difference(ours: Any, theirs: Any, path: str = "") -> str:
    """Where two JSON values differ first, in a few words."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs:
                return f"{path}.{name} is {'theirs' if name in theirs else 'ours'} alone"
            if ours[name] != theirs[name]:
                return first_difference(ours[name], theirs[name], f"{path}.{name}")
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{path} has {len(ours)} items, theirs {len(theirs)}"
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if mine != other:
                return first_difference(mine, other, f"{path}[{place}]")
    return f"{path or 'the result'}: {str(ours)[:_SHOWN]}, theirs {str(theirs)[:_SHOWN]}"
