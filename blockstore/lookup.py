"""Searches whose steps depend on each other, over a store that is far away.

A search is a binary decision tree: a `Step` names the key to probe, and which step follows a hit and which a miss.
`one_by_one` waits for each answer before it asks the next. `long_earth` asks ahead: when a probe has not answered
within the *head start*, both steps that may follow it begin too, and so on below them. The answer of a probe cancels
the side that it rules out. `Lookup.find` takes the one or the other, by the time that the probes of this kind take.

Source: LongEarth of Ethersphere's Swarm feeds. Different here: a time-out is never taken for a miss, probes in flight
are capped, the head start follows the latency, an answer settles the steps above it that it implies, and an error of a
probe that turns out to be unneeded is dropped. A search finds what its serial twin finds, and fails only where that
would fail.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from itertools import count
from typing import Any, Final, Generic, TypeVar

from blockstore.probes import TIMEOUT, Asker, Figures, Latency, Probe, Range, Result, Step

#: the most probes of one search that are in flight at once, those included that are being cancelled
MOST_IN_FLIGHT: Final = 16
T = TypeVar("T")


class Lookup:
    """Searches of one kind over one store: they share what is known of the latency of their probes."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self.latency = Latency()
        self.figures = Figures()
        self._timeout = timeout

    async def find(self, step: Step[T], probe: Probe[Any]) -> T:
        """The result of the search. Errors: those of the probes that the serial search asks; Undecided."""
        search = long_earth if self.latency.is_far else one_by_one
        return await search(step, probe, latency=self.latency, figures=self.figures, timeout=self._timeout)

    async def first(self, low: int, high: int, probe: Probe[int], *, reach: int = 0) -> int:
        """As `Range` says. Errors: as `find`."""
        return await self.find(Range(low, high, reach), probe) if low < high else high


async def one_by_one(
    step: Step[T],
    probe: Probe[Any],
    *,
    latency: Latency | None = None,
    figures: Figures | None = None,
    timeout: float = TIMEOUT,
) -> T:
    """The serial twin of `long_earth`: at most one probe in flight. Errors: as `long_earth`."""
    asked = Asker(probe, latency or Latency(), figures or Figures(), timeout)
    at: Step[T] | Result[T] = step
    while not isinstance(at, Result):
        at = at.after(await asked(at.key))
    return at.value


async def long_earth(
    step: Step[T],
    probe: Probe[Any],
    *,
    latency: Latency | None = None,
    figures: Figures | None = None,
    timeout: float = TIMEOUT,
    head_start: float | None = None,
    most_in_flight: int = MOST_IN_FLIGHT,
) -> T:
    """The result of a search that asks ahead. `head_start`: seconds; None: what `latency` says.

    When it returns, raises or is cancelled, no task of it is left. Errors: those of the probes that the serial search
    asks; Undecided.
    """
    latency = latency or Latency()
    asked = Asker(probe, latency, figures or Figures(), timeout)
    search = _Search(step, asked, latency, head_start, most_in_flight)
    try:
        return await search.run()
    finally:
        await search.close()


class _Node(Generic[T]):
    """A step that the search may come to. `side`: the answer of `parent` that leads here."""

    __slots__ = ("answer", "children", "error", "is_alive", "is_open", "parent", "side", "step")

    def __init__(self, step: Step[T], parent: _Node[T] | None, side: bool) -> None:
        self.step = step
        self.parent = parent
        self.side = side
        self.answer: bool | None = None
        self.error: BaseException | None = None
        self.children: dict[bool, _Node[T] | Result[T]] = {}
        self.is_open = False
        self.is_alive = True

    def child(self, side: bool) -> _Node[T] | Result[T]:
        found = self.children.get(side)
        if found is None:
            after = self.step.after(side)
            found = self.children[side] = after if isinstance(after, Result) else _Node(after, self, side)
        return found

    def doubt(self) -> int:
        """How many answers are not known that this node depends on."""
        above, found = self.parent, 0
        while above is not None:
            found += above.answer is None
            above = above.parent
        return found


class _Search(Generic[T]):
    """One run of `long_earth`."""

    def __init__(
        self, step: Step[T], asked: Asker, latency: Latency, head_start: float | None, most_in_flight: int
    ) -> None:
        self._asked = asked
        self._latency = latency
        self._head_start = head_start
        self._most = most_in_flight
        self._root: _Node[T] = _Node(step, None, True)
        #: nodes that wait for a place in flight
        self._waiting: list[_Node[T]] = []
        #: (when, number, node): when the steps behind a node begin, if it has not answered
        self._timers: list[tuple[float, int, _Node[T]]] = []
        self._number = count()
        self._tasks: dict[Any, asyncio.Task[bool]] = {}
        #: by key: the nodes that a probe in flight is for
        self._nodes: dict[Any, list[_Node[T]]] = {}
        self._answers: dict[Any, bool] = {}
        #: cancelled, but not ended
        self._ending: set[asyncio.Task[bool]] = set()

    async def run(self) -> T:
        clock = asyncio.get_running_loop().time
        self._open(self._root)
        while True:
            end = self._advance()
            if end is not None:
                return end.value
            while self._timers and self._timers[0][0] <= clock():
                node = heapq.heappop(self._timers)[2]
                if node.is_alive and node.answer is None:
                    self._look_ahead(node)
            self._fill(clock())
            if self._root.answer is not None:
                continue
            pause = self._timers[0][0] - clock() if self._timers else None
            waited = {*self._tasks.values(), *self._ending}
            await asyncio.wait(
                waited, timeout=None if pause is None else max(0, pause), return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in self._ending if task.done()]:
                self._ending.remove(task)
                # looked at, or the event loop reports an error that nobody needs
                _ = task.cancelled() or task.exception()
            for key, task in [(key, task) for key, task in self._tasks.items() if task.done()]:
                self._take(key, task)

    async def close(self) -> None:
        """Cancel what is in flight, and wait until it has ended."""
        left = [*self._tasks.values(), *self._ending]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _advance(self) -> Result[T] | None:
        """Move the root down as far as answers are known; the result once it gets there. Errors: the root's."""
        while self._root.answer is not None:
            below = self._root.child(self._root.answer)
            if isinstance(below, Result):
                return below
            below.parent = None
            self._root = below
        if self._root.error is not None:
            raise self._root.error
        return None

    def _open(self, node: _Node[T] | Result[T]) -> None:
        if isinstance(node, _Node) and not node.is_open:
            node.is_open = True
            self._waiting.append(node)

    def _look_ahead(self, node: _Node[T]) -> None:
        self._open(node.child(True))
        self._open(node.child(False))

    def _fill(self, now: float) -> None:
        """Begin the probes that wait while there is room, those first that depend on the fewest open answers."""
        while True:
            self._waiting = [node for node in self._waiting if node.is_alive and node.answer is None]
            if not self._waiting:
                return
            node = min(self._waiting, key=_Node.doubt)
            key = node.step.key
            if key in self._answers:
                self._waiting.remove(node)
                self._settle(node, self._answers[key])
                continue
            if key not in self._tasks:
                if len(self._tasks) + len(self._ending) >= self._most:
                    return
                self._tasks[key] = asyncio.get_running_loop().create_task(self._asked(key))
                self._nodes[key] = []
            self._waiting.remove(node)
            self._nodes[key].append(node)
            start = self._latency.head_start if self._head_start is None else self._head_start
            if start != math.inf:
                heapq.heappush(self._timers, (now + start, next(self._number), node))

    def _take(self, key: Any, task: asyncio.Task[bool]) -> None:
        """Take the answer of a probe."""
        if self._tasks.pop(key, None) is None:
            return  # an answer that came in the same moment made it unneeded
        nodes = self._nodes.pop(key)
        error = task.exception() if not task.cancelled() else asyncio.CancelledError()
        if error is not None:
            for node in nodes:
                node.error = error
            return
        self._answers[key] = task.result()
        for node in nodes:
            self._settle(node, task.result())

    def _settle(self, node: _Node[T], answer: bool) -> None:
        """Set the answer of a node, and of the nodes above that it implies; drop the sides that are ruled out."""
        at: _Node[T] | None = node
        side = answer
        while at is not None:
            is_implied = side is answer and (answer or at.step.is_two_sided)
            if at.answer is None and (at is node or is_implied):
                at.answer = answer
                at.error = None
                self._leave(at)
                self._drop(at.children.get(not answer))
                if at.is_alive:
                    self._open(at.child(answer))
            side, at = at.side, at.parent

    def _drop(self, node: _Node[T] | Result[T] | None) -> None:
        """Give up a node and all below it."""
        left = [node]
        while left:
            one = left.pop()
            if isinstance(one, _Node) and one.is_alive:
                one.is_alive = False
                self._leave(one)
                left += one.children.values()

    def _leave(self, node: _Node[T]) -> None:
        """Cancel the probe of a node, unless another one needs it."""
        key = node.step.key
        nodes = self._nodes.get(key)
        if nodes is not None and node in nodes:
            nodes.remove(node)
            if not nodes:
                del self._nodes[key]
                task = self._tasks.pop(key)
                task.cancel()
                self._ending.add(task)
