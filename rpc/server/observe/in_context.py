"""Running a coroutine in a `contextvars` context of its own, without a task."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class InContext(Generic[T]):
    """Awaits a coroutine whose every step runs in `context`: what it sets there is not seen outside.

    A task would do the same, but costs more than most answers, and a call could not be answered in the stack of who
    asks (see `rpc.server.run_until_blocked`).
    """

    __slots__ = ("_context", "_coroutine")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> None:
        self._context = context
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        run, coroutine = self._context.run, self._coroutine
        try:
            waited = run(coroutine.send, None)
            while True:
                try:
                    value = yield waited
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as error:
                    waited = run(coroutine.throw, error)
                else:
                    waited = run(coroutine.send, value)
        except StopIteration as stop:
            return cast("T", stop.value)
