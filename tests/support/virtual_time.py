"""An event loop whose clock jumps: what waits for a timer costs no time, however long it waits.

When nothing is left to do but to wait for a timer, the clock is set to that timer. Sockets between tasks of the same
loop work as they do: what was sent over loopback is there to be read before the clock moves.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Never waits for a timer: it tells the loop that the time has passed."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            # no timer at all: another thread, or the outside, must move things
            return super().select(None)
        self.loop.passed += max(timeout, 0)
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`passed` seconds since it was made. What would run in a thread runs at once."""

    def __init__(self) -> None:
        self.passed = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.passed

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on such a loop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def virtual_ms() -> int:
    """Milliseconds of the running loop's clock."""
    return int(asyncio.get_running_loop().time() * 1000)
