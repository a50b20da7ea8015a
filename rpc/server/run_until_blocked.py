"""Running a coroutine at once, and making a task of it only if it has to wait.

Most answers come from memory and never wait; a task for each would cost more than the answer. So the first
step runs in the caller's stack. A `Running` stands in as the current task meanwhile, because time-outs and
task groups ask for one; if the coroutine waits, a real task takes over what it waits for, and the stand-in
passes on to it. (Python 3.12 has eager tasks; this does the same on 3.11, by the hooks that the asyncio
documentation keeps for other implementations of tasks.)
"""

from __future__ import annotations

import asyncio
from asyncio import tasks as _tasks
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class _Rest:
    """What is left of a coroutine that has waited once, for a task to await."""

    __slots__ = ("coroutine", "waited")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waited: Any) -> None:
        self.coroutine = coroutine
        self.waited = waited

    def __await__(self) -> Generator[Any, Any, Any]:
        waited = self.waited
        if waited is not None:
            # as `await` had left it: the task looks at that
            waited._asyncio_future_blocking = True
        coroutine = self.coroutine
        try:
            while True:
                try:
                    value = yield waited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    waited = coroutine.throw(error)
                else:
                    waited = coroutine.send(value)
        except StopIteration as stop:
            return stop.value


async def _finish(rest: _Rest) -> Any:
    return await rest


class Running(Generic[T]):
    """A coroutine under way: done at once, or carried on by `task`."""

    __slots__ = ("_cancels", "_loop", "task", "value")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancels = 0
        self.task: asyncio.Task[T] | None = None
        self.value: T | None = None

    # --- what asks for the current task may ask of it ------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it runs on."""
        return self._loop

    def get_name(self) -> str:
        """A task's name."""
        return "running"

    def done(self) -> bool:
        """Whether it has ended."""
        return self.task.done() if self.task is not None else False

    def cancel(self, msg: Any = None) -> bool:
        """Cancel at the next wait."""
        if self.task is not None:
            return self.task.cancel(msg)
        self._cancels += 1
        return True

    def uncancel(self) -> int:
        """Take one cancel back."""
        if self.task is not None:
            return self.task.uncancel()
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    def cancelling(self) -> int:
        """How many cancels are pending."""
        return self.task.cancelling() if self.task is not None else self._cancels

    def add_done_callback(self, callback: Callable[..., Any], **options: Any) -> None:
        """As of a task; possible once it waits."""
        if self.task is None:
            raise RuntimeError("not waiting yet")
        self.task.add_done_callback(callback, **options)


def run_until_blocked(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> Running[T]:
    """Run a coroutine up to its first wait. `task` is None when it ended: then `value` is its result.

    Errors: whatever the coroutine raises before it waits.
    """
    running: Running[T] = Running(loop)
    current = cast("asyncio.Task[Any]", running)
    outer = _tasks.current_task(loop)
    if outer is not None:
        _tasks._leave_task(loop, outer)
    _tasks._enter_task(loop, current)
    try:
        waited = coroutine.send(None)
    except StopIteration as stop:
        running.value = stop.value
        return running
    finally:
        _tasks._leave_task(loop, current)
        if outer is not None:
            _tasks._enter_task(loop, outer)
    if waited is not None:
        # others may await the same future before the task does
        waited._asyncio_future_blocking = False
    running.task = loop.create_task(_finish(_Rest(coroutine, waited)))
    for _ in range(running._cancels):
        running.task.cancel()
    return running


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run at the same time, in their order. Errors: the first one's."""
    loop = asyncio.get_running_loop()
    started = [run_until_blocked(loop, coroutine) for coroutine in coroutines]
    waiting = [running.task for running in started if running.task is not None]
    if waiting:
        await asyncio.gather(*waiting)
    return [cast("T", running.value) if running.task is None else running.task.result() for running in started]
