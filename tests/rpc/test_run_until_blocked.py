"""What runs up to its first wait in its caller's stack goes on as any task would. Tasks of asyncio are the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.server.run_until_blocked import run_until_blocked, together

#: futures that the coroutines of one run share: the last two fail
_FUTURES: Final = 5
_FAILING: Final = 2

pytestmark = pytest.mark.both_loops

_STEPS: Final = st.one_of(
    st.integers(0, _FUTURES - 1),
    st.sampled_from(["turn", "time", "task", "raise"]),
)


async def program(steps: Sequence[int | str], shared: Sequence[asyncio.Future[int]]) -> list[object]:
    """Wait for these, one after another; what came of each. Errors: ZeroDivisionError for "raise"."""
    seen: list[object] = []
    for step in steps:
        if isinstance(step, int):
            try:
                seen.append(await shared[step])
            except KeyError as error:
                seen.append(error)
        elif step == "turn":
            await asyncio.sleep(0)
            seen.append(step)
        elif step == "time":
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                seen.append(step)
        elif step == "task":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            seen.append(step)
        else:
            seen.append(1 // 0)
    return seen


def as_tasks(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """The model."""
    return [asyncio.create_task(coroutine) for coroutine in coroutines]


def up_to_a_wait(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """All in one turn of the loop. Errors: those of a coroutine that ends before it waits."""
    started = []
    for coroutine in coroutines:
        running = run_until_blocked(asyncio.get_running_loop(), coroutine)
        assert running.task is not None
        started.append(running.task)
    return started


async def outcomes(
    programs: Sequence[Sequence[int | str]],
    start: Callable[[Sequence[Coroutine[Any, Any, Any]]], list[asyncio.Task[Any]]],
) -> list[str]:
    """What came of each program, with shared futures that are settled once all programs wait."""
    loop = asyncio.get_running_loop()
    shared: list[asyncio.Future[int]] = [loop.create_future() for _ in range(_FUTURES)]
    tasks = start([program(steps, shared) for steps in programs])
    await asyncio.sleep(0)
    for number, future in enumerate(shared):
        if number < _FUTURES - _FAILING:
            future.set_result(number)
        else:
            future.set_exception(KeyError(number))
            future.exception()
    async with asyncio.timeout(20):
        return [repr(one) for one in await asyncio.gather(*tasks, return_exceptions=True)]


# a first step that waits: what ends at once, or fails, has a test of its own
@given(st.lists(st.tuples(st.integers(0, _FUTURES - 1), st.lists(_STEPS, max_size=4)), min_size=1, max_size=5))
def test_all_come_to_what_tasks_come_to(drawn: list[tuple[int, list[int | str]]]) -> None:
    programs = [[first, *rest] for first, rest in drawn]
    assert asyncio.run(outcomes(programs, up_to_a_wait)) == asyncio.run(outcomes(programs, as_tasks))


async def test_two_that_wait_for_the_same_future() -> None:
    assert await outcomes([[0], [0]], up_to_a_wait) == ["[0]", "[0]"]
    assert await outcomes([[4], [4, 1]], up_to_a_wait) == ["[KeyError(4)]", "[KeyError(4), 1]"]


async def test_a_cancelled_one_leaves_the_other_alone() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    async def wait() -> int:
        return await asyncio.shield(future)

    first, second = up_to_a_wait([wait(), wait()])
    first.cancel()
    await asyncio.sleep(0)
    future.set_result(7)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 7


async def test_a_cancel_before_the_first_wait_comes_with_it() -> None:
    async def give_up() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        assert current.cancelling() == 1
        await asyncio.sleep(10)

    (task,) = up_to_a_wait([give_up()])
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_never_waits_needs_no_task() -> None:
    async def value() -> int:
        return 3

    running = run_until_blocked(asyncio.get_running_loop(), value())
    assert (running.task, running.value) == (None, 3)
    with pytest.raises(ZeroDivisionError):
        run_until_blocked(asyncio.get_running_loop(), program(["raise"], []))


async def test_the_callers_task_is_current_again() -> None:
    caller = asyncio.current_task()
    seen = []

    async def who(steps: Sequence[int | str]) -> None:
        seen.append(asyncio.current_task())
        await program(steps, [])

    run_until_blocked(asyncio.get_running_loop(), who([]))
    with pytest.raises(ZeroDivisionError):
        run_until_blocked(asyncio.get_running_loop(), who(["raise"]))
    (task,) = up_to_a_wait([who(["turn"])])
    assert asyncio.current_task() is caller
    await task
    assert caller not in seen


async def test_results_together_are_in_order() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.call_soon(future.set_result, 0)
    assert await together(program(steps, [future]) for steps in ([0], [], ["turn", 0])) == [[0], [], ["turn", 0]]
    with pytest.raises(ZeroDivisionError):
        await together([program(["turn", "raise"], []), program([], [])])
