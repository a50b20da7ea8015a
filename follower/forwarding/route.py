"""Forwarding a call to the best of several full nodes.

A *read* goes to a node that holds the tipset that the answer belongs to. It is asked of the next node too when an
answer is later than usual, or when a node does not answer. A *write* goes to one node; another is tried only where the
write has surely not been sent. A node's own error is the answer, unchanged.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from chain.tipset import Tipset
from follower.forwarding.joined_calls import JoinedCalls
from follower.forwarding.method_rules import Kind, is_fixed, kind_of
from follower.forwarding.node import ForwardNode
from follower.forwarding.response_times import ResponseTimes
from follower.forwarding.seldom import Seldom
from rpc.errors import METHOD_NOT_FOUND, Unavailable
from rpc.node_errors import (
    CallFailed,
    NodeBusy,
    NodeError,
    NodeNotReached,
    NodeRefused,
    NodeTimeout,
    NodeUnavailable,
    RateLimited,
)
from rpc.observe.call_record import note_source
from rpc.server.metrics import Metrics

log = logging.getLogger(__name__)

#: seconds for which a call goes on trying while no node can be reached, and between two tries
_RETRY_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.05
#: epochs that a node may be behind the highest one and still count as level with it
_LEVEL_EPOCHS: Final = 1
#: response times within this factor of the fastest node's count as equal
_EQUAL_FACTOR: Final = 1.5
#: of the calls, those that may be asked of a second node because the first is late; and how many may be saved up
_HEDGED_SHARE: Final = 0.1
_HEDGES_SAVED: Final = 32.0
#: what nodes say that lack an object or a tipset which another node may hold
LACKS: Final = re.compile(r"could not find|block not found|load(ing)? tipset|not held|lookback")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `execute` and `quick`: what a call of that kind may take; `by_method` goes before them.

    `wait`: for a place, or for a node that holds the tipset. `look`: for a node's head. `hedge`: the least time until
    a read is asked of a second node too; 0: it is not. `next_node`: the most.
    """

    execute: float = 300.0
    quick: float = 30.0
    wait: float = 10.0
    look: float = 5.0
    hedge: float = 0.2
    next_node: float = 30.0
    by_method: Mapping[str, float] = field(default_factory=dict)

    def of(self, method: str, kind: Kind) -> float:
        """What a call may take."""
        return self.by_method.get(method) or (self.execute if kind is Kind.EXECUTE else self.quick)


class _NobodyAnswers(Exception):
    """No node could be asked now, or each one that was asked failed."""

    def __init__(self, last: NodeError | None) -> None:
        super().__init__()
        self.last = last


class _NobodyHolds(Exception):
    """Every node that answers lacks the tipset."""


class ForwardRoute:
    """`rpc.services.NodeClient` over several nodes; `nodes` is in the operator's order of preference.

    `cache_bytes`: answers of fixed reads that are kept.
    """

    def __init__(self, nodes: Sequence[ForwardNode], times: Times | None = None, *, cache_bytes: int = 0) -> None:
        if not nodes:
            raise ValueError("a route has at least one node")
        self.nodes = list(nodes)
        self.times = times or Times()
        self._response_times = ResponseTimes()
        self._joined = JoinedCalls(cache_bytes)
        self._hedges_left = _HEDGES_SAVED
        self.hedges = 0
        #: writes of which is not known whether the node has taken them
        self.unknown_writes = 0
        self._lines = Seldom()

    async def watch(self, interval_seconds: float = 5.0) -> None:
        """Ask each node for its head regularly, until cancelled."""

        async def one(node: ForwardNode) -> None:
            while True:
                try:
                    await node.look(self.times.look, self._response_times)
                except NodeError as error:
                    log.debug("the head of %s: %s", node.name, error)
                await asyncio.sleep(interval_seconds)

        await asyncio.gather(*(one(node) for node in self.nodes))

    async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
        """The result of a call. `at`: only a node that holds this tipset may answer.

        Errors: CallFailed (the node's own error), Unavailable (all are busy, none answered in time, none holds the
        tipset, or it is not known whether a write was taken), another NodeError (none can be reached).
        """
        kind = kind_of(method)
        seconds = self.times.of(method, kind)
        try:
            if kind is Kind.WRITE:
                return await self._write(method, params, seconds)
            self._hedges_left = min(self._hedges_left + _HEDGED_SHARE, _HEDGES_SAVED)
            digest = hashlib.blake2b(orjson.dumps([method, params]), digest_size=24)
            digest.update(b"" if at is None else at.key)
            return await self._joined.get(
                digest.digest(), lambda: self._read(method, params, at, kind, seconds), is_fixed=is_fixed(method)
            )
        except NodeTimeout:
            raise Unavailable("the full node behind this follower did not answer in time") from None
        except NodeBusy:
            raise Unavailable(
                "the full node behind this follower is busy: too many forwarded calls are in flight; ask again later"
            ) from None

    async def one_by_one(self, method: str, params: list[Any], at: Tipset) -> AsyncIterator[tuple[str, Any]]:
        """(name of the node, answer) of one node that holds a tipset after the other, best first: for what is verified.

        Nothing is kept, and no node is asked ahead. Ends when all were asked: a node that fails or refuses is left out.
        """
        kind = kind_of(method)
        seconds = self.times.of(method, kind)
        hold_until = time.monotonic() + min(self.times.wait, seconds)
        asked: set[str] = set()
        answered = False
        while True:
            lacking = False
            for node in self.ranked(kind, at):
                if node.name in asked:
                    continue
                try:
                    async with asyncio.timeout(seconds):
                        answer = await self._attempt(node, method, params, at, kind, seconds)
                except _NobodyHolds:
                    lacking = True
                    continue
                except (NodeError, TimeoutError) as error:
                    log.info("%s was asked of %s: %s", method, node.name, error)
                    asked.add(node.name)
                    continue
                asked.add(node.name)
                answered = True
                note_source(node.name)
                yield node.name, answer
            # a node that is behind is waited for only while no other has answered
            if answered or not lacking or time.monotonic() >= hold_until:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    # --- ranking ---------------------------------------------------------------------------------------------

    def ranked(self, kind: Kind, at: Tipset | None = None) -> list[ForwardNode]:
        """The nodes that may be asked now, best first.

        Those known to hold the tipset go first; then those with a closed breaker, a free place, a head as high as the
        others' (where no tipset is asked for: what holds it need not be at the head); then the faster ones; then in the
        operator's order.
        """
        top = max((node.height for node in self.nodes if node.height is not None), default=0)
        fastest = min((node.slowness for node in self.nodes if node.slowness is not None), default=1.0)

        def rank(node: ForwardNode) -> tuple[bool, bool, bool, int, int]:
            lag = 0 if node.height is None or at is not None else top - node.height
            factor = 1.0 if node.slowness is None else node.slowness / max(fastest, 1e-6)
            return (
                at is not None and not node.is_known_to_hold(at),
                not node.breaker.is_closed,
                node.is_full(kind),
                lag if lag > _LEVEL_EPOCHS else 0,
                int(math.log(max(factor, 1.0), _EQUAL_FACTOR)),
            )

        return sorted((node for node in self.nodes if node.passes), key=rank)

    # --- reads -----------------------------------------------------------------------------------------------

    async def _read(self, method: str, params: list[Any], at: Tipset | None, kind: Kind, seconds: float) -> Any:
        began = time.monotonic()
        retry_until = began + min(_RETRY_SECONDS, seconds)
        hold_until = began + min(self.times.wait, seconds)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._ask_nodes(method, params, at, kind, seconds)
                    except _NobodyHolds:
                        if time.monotonic() >= hold_until:
                            assert at is not None
                            raise Unavailable(
                                f"no full node behind this follower holds the tipset at epoch {at.height} yet: ask "
                                "again later"
                            ) from None
                    except _NobodyAnswers as error:
                        if time.monotonic() >= retry_until:
                            raise error.last or NodeUnavailable("every full node is left alone for a while") from None
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            raise NodeTimeout(f"{method} was not answered in {seconds:g} s") from None

    async def _ask_nodes(self, method: str, params: list[Any], at: Tipset | None, kind: Kind, seconds: float) -> Any:
        """Ask one node after the other. Errors: _NobodyHolds, _NobodyAnswers, CallFailed, NodeBusy, NodeTimeout."""
        if at is not None:
            await self._find_holder(at)
        left = deque(self.ranked(kind, at))
        asked: dict[asyncio.Task[Any], ForwardNode] = {}
        lacking = 0
        refused: CallFailed | None = None
        last: NodeError | None = None
        try:
            while left or asked:
                if left:
                    node = left.popleft()
                    asked[asyncio.create_task(self._attempt(node, method, params, at, kind, seconds))] = node
                done = await self._wait_for_answer(method, asked, bool(left))
                if not done and left and self._hedges_left >= 1 and self.times.hedge:
                    self._hedges_left -= 1
                    self.hedges += 1
                for task in done:
                    node = asked.pop(task)
                    try:
                        result = task.result()
                        note_source(node.name)
                        return result
                    except _NobodyHolds:
                        lacking += 1
                    except CallFailed as error:
                        note_source(node.name)
                        if error.code != METHOD_NOT_FOUND and not LACKS.search(error.message):
                            raise
                        # another node may hold it; where none does, the best one's error is the answer
                        refused = refused or error
                    except NodeError as error:
                        log.info("%s was asked of %s: %s", method, node.name, error)
                        last = error
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if refused is not None:
            raise refused
        if isinstance(last, NodeBusy | NodeTimeout):
            raise last
        if last is None and lacking:
            raise _NobodyHolds
        raise _NobodyAnswers(last)

    async def _wait_for_answer(
        self, method: str, asked: Mapping[asyncio.Task[Any], ForwardNode], others: bool
    ) -> set[asyncio.Task[Any]]:
        """Those that have ended; none where the next node should be asked too."""
        wait_seconds: float | None = None
        if others:
            late = max(self.times.hedge, self._response_times.late_after(method))
            may_hedge = self.times.hedge and self._hedges_left >= 1
            wait_seconds = min(late, self.times.next_node) if may_hedge else self.times.next_node
        done, _ = await asyncio.wait(asked, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def _attempt(
        self, node: ForwardNode, method: str, params: list[Any], at: Tipset | None, kind: Kind, seconds: float
    ) -> Any:
        if at is not None and not await node.holds(at, self.times.look, self._response_times):
            raise _NobodyHolds
        if not node.breaker.enter():
            raise NodeUnavailable(f"{node.name}: left alone for a while")
        return await node.call(kind, method, params, seconds, self._response_times)

    async def _find_holder(self, at: Tipset) -> None:
        """Return once a node is known to hold the tipset. Errors: _NobodyHolds, _NobodyAnswers."""
        candidates = [node for node in self.nodes if node.passes]
        if any(node.is_known_to_hold(at) for node in candidates):
            return
        if not candidates:
            raise _NobodyAnswers(None)
        probes = {asyncio.create_task(node.holds(at, self.times.look, self._response_times)) for node in candidates}
        try:
            while probes:
                done, probes = await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return
        finally:
            # the nodes' own probes go on: what they find is remembered
            for task in probes:
                task.cancel()
        raise _NobodyHolds

    # --- writes ----------------------------------------------------------------------------------------------

    async def _write(self, method: str, params: list[Any], seconds: float) -> Any:
        """Send a write to one node; to another only where it has surely not been sent."""
        retry_until = time.monotonic() + min(_RETRY_SECONDS, seconds)
        last: NodeError | None = None
        unknown: CallFailed | None = None
        while True:
            for node in self.ranked(Kind.WRITE):
                if not node.breaker.enter():
                    continue
                note_source(node.name)
                try:
                    return await node.call(Kind.WRITE, method, params, seconds, self._response_times)
                except CallFailed as error:
                    if error.code != METHOD_NOT_FOUND:
                        raise
                    unknown = error
                except (NodeNotReached, NodeBusy, RateLimited, NodeRefused) as error:
                    log.info("%s was not taken by %s: %s", method, node.name, error)
                    last = error
                except NodeError as error:
                    self._note_unknown(method, error)
                    raise Unavailable(
                        "the full node behind this follower was sent this, and its answer did not come: it may have "
                        "taken it. Look for the message before you send it again"
                    ) from None
            if unknown is not None:
                raise unknown
            if time.monotonic() >= retry_until:
                raise last or NodeUnavailable("every full node is left alone for a while")
            await asyncio.sleep(_PAUSE_SECONDS)

    def _note_unknown(self, method: str, error: NodeError) -> None:
        self.unknown_writes += 1
        if self._lines.is_due():
            log.warning("%s was sent, and no answer came (%d such writes): %s", method, self.unknown_writes, error)

    # --- kept answers ----------------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """Memory of the answers that are kept, bytes."""
        return self._joined.kept_bytes

    def drop_kept(self) -> None:
        """Drop the answers that are kept."""
        self._joined.drop_kept()

    # --- figures ---------------------------------------------------------------------------------------------

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.labelled_counter(
            "follower_forward_calls",
            "Calls sent to a full node, by its host and port.",
            "node",
            lambda: {node.name: node.calls for node in self.nodes},
        )
        metrics.labelled_counter(
            "follower_forward_failures",
            "Calls to a full node that it did not answer.",
            "node",
            lambda: {node.name: node.failures for node in self.nodes},
        )
        metrics.gauge(
            "follower_forward_nodes_usable",
            "Full nodes whose circuit breaker is closed.",
            lambda: sum(node.breaker.is_closed for node in self.nodes),
        )
        metrics.counter(
            "follower_forward_hedges",
            "Forwarded reads asked of a second node because the first was late.",
            lambda: self.hedges,
        )
        metrics.counter(
            "follower_forward_joined",
            "Forwarded reads answered by an identical one that was in flight.",
            lambda: self._joined.joined,
        )
        metrics.counter(
            "follower_forward_kept",
            "Forwarded reads at a fixed tipset answered from memory.",
            lambda: self._joined.kept,
        )
        metrics.counter(
            "follower_forward_unknown_writes",
            "Writes that a full node was sent and did not answer: it may have taken them.",
            lambda: self.unknown_writes,
        )

    async def close(self) -> None:
        """Close every connection."""
        for node in self.nodes:
            await node.close()
