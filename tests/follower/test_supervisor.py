"""The supervisor restarts what dies, gives up on what cannot run, and leaves nothing behind."""

from __future__ import annotations

import asyncio

from follower.supervisor import Child, Supervisor


async def test_a_child_that_cannot_run_ends_the_whole() -> None:
    # an unknown subcommand is a usage error: exit code 2
    supervisor = Supervisor([Child("bad", ["no-such-subcommand"])])
    assert await asyncio.wait_for(supervisor.run(), 30) == 1


async def test_stop_ends_every_child() -> None:
    supervisor = Supervisor([Child("long", ["replay", "--help"], fatal=frozenset())])
    running = asyncio.create_task(supervisor.run())
    while not supervisor._running:
        await asyncio.sleep(0.01)
    supervisor.stop()
    assert await asyncio.wait_for(running, 30) == 0
    assert not supervisor._running
