"""Methods that tests of the wire are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from chain.errors import NullRound
from rpc.context import Context
from rpc.errors import ExecutionReverted
from rpc.params import ABSENT, RawParams
from rpc.registry import V0, V1, V2, Cost, Registry


class Gate:
    """Calls wait here until a test lets them go on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.cancelled = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def wait(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.inside -= 1


def make_registry(gate: Gate | None = None) -> Registry:
    """Test.* methods; `gate` is what the waiting ones wait for."""
    registry = Registry()
    gate = gate or Gate()
    method = registry.method

    @method("Test.Echo", aliases=("test_echo",), versions=V0 | V1 | V2)
    async def echo(ctx: Context, value: Any) -> Any:
        """Its parameter."""
        return value

    @method("Test.Add")
    async def add(ctx: Context, a: int, b: int) -> int:
        """The sum."""
        return a + b

    @method("Test.Note")
    async def note(ctx: Context, name: str, value: str) -> bool:
        """Puts a header out; whether the caller asked for a verbose answer."""
        ctx.add_header(name, value)
        return ctx.verbose

    @method("Test.Raw")
    async def raw(ctx: Context, params: RawParams) -> Any:
        """Its parameters, however many."""
        return None if params is ABSENT else params

    @method("Test.Head")
    async def head(ctx: Context) -> int:
        """The head's epoch."""
        return (await ctx.head()).tipset.height

    @method("Test.Big")
    async def big(ctx: Context, size: int) -> str:
        """A text of this length."""
        return "x" * size

    @method("Test.Fail")
    async def fail(ctx: Context) -> None:
        """Fails in a way that nobody foresaw."""
        raise KeyError("the secret of /etc/passwd")

    @method("Test.NullRound")
    async def null_round(ctx: Context) -> None:
        """Fails with a code and data."""
        raise NullRound(5)

    @method("Test.Revert")
    async def revert(ctx: Context) -> None:
        """Fails with data."""
        raise ExecutionReverted("reverted <&>", "0x08c3")

    @method("Test.NoJson")
    async def no_json(ctx: Context) -> Any:
        """A result that has no JSON form."""
        return {"a": object()}

    @method("Test.Write", perm="write")
    async def write(ctx: Context) -> bool:
        """Needs a token."""
        return True

    @method("Test.Wait")
    async def wait(ctx: Context) -> str:
        """Waits for the gate."""
        await gate.wait()
        return "done"

    @method("Test.TimedWait")
    async def timed_wait(ctx: Context) -> str:
        """Times itself out at once: needs a current task."""
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    @method("Test.Abandoned")
    async def abandoned(ctx: Context, later: bool) -> None:
        """Waits for something shared that another request has given up."""
        shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if later:
            asyncio.get_running_loop().call_soon(shared.cancel)
        else:
            shared.cancel()
        await shared

    @method("Test.Heavy", cost=Cost.HEAVY)
    async def heavy(ctx: Context) -> str:
        """Waits for the gate, in the lane of heavy answers."""
        await gate.wait()
        return "done"

    @method("Test.Walk", cost=Cost.SCAN)
    async def walk(ctx: Context) -> None:
        """Walks without end, and never waits by itself."""
        try:
            while True:
                await ctx.checkpoint()
        except asyncio.CancelledError:
            gate.cancelled.set()
            raise

    @method("Test.Count", channel=True)
    async def count(ctx: Context, upto: int) -> AsyncIterator[int]:
        """0, 1, …; ends before `upto`."""
        for number in range(upto):
            yield number

    @method("Test.Flood", channel=True)
    async def flood(ctx: Context, size: int) -> AsyncIterator[str]:
        """Texts of this size, without end."""
        while True:
            yield "x" * size
            await asyncio.sleep(0)

    @method("Test.Silent", channel=True)
    async def silent(ctx: Context) -> AsyncIterator[int]:
        """One value, then waits for the gate."""
        yield 1
        await gate.wait()

    @method("Test.BadChannel", channel=True)
    async def bad_channel(ctx: Context) -> AsyncIterator[int]:
        """Fails before its first value."""
        raise NullRound(7)
        yield 1

    return registry
