"""One call that is being answered, and those who have asked the same meanwhile."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

from rpc.context import Context
from rpc.errors import TimeBudgetExceeded
from rpc.json_wire import Text
from rpc.registry import Method
from rpc.server.metrics import MethodStats
from rpc.services import Head

#: the call had an error, or an answer that is its own: whoever waited computes for itself
FAILED: Final = b""


class Flight:
    """A call under way. `place`: its question, and the key of the head that it is asked of ("": of none)."""

    __slots__ = ("_ended", "_waiters", "head", "method", "place", "stats")

    def __init__(self, place: tuple[bytes, bytes], method: Method, stats: MethodStats, head: Head | None) -> None:
        self.place = place
        self.method = method
        self.stats = stats
        self.head = head
        self._ended = False
        self._waiters: list[asyncio.Future[Text | None]] = []

    async def wait(self, ctx: Context) -> Text | None:
        """The text that the call brings; `FAILED`, or None where it was given up. Errors: TimeBudgetExceeded."""
        future: asyncio.Future[Text | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        budget = ctx.time_budget_seconds
        left = budget if budget is None or ctx.deadline is None else max(0.0, ctx.deadline - perf_counter())
        try:
            async with asyncio.timeout(left):
                return await future
        except TimeoutError:
            assert budget is not None
            raise TimeBudgetExceeded(budget, ctx.time_budget_name) from None

    def end(self, found: Text | None) -> None:
        """Tell those who wait. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(found)
