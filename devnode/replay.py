"""A recorded chain, served as a full node would: its head changes in their recorded order, reverts and all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from chain.errors import BadRequest
from devnode.faults import Faults
from devnode.node_heads import NodeHeads
from devnode.played_node import PlayedNode
from devnode.recorded_answers import with_answers
from devnode.recorded_chain import Change, RecordedChain
from rpc.methods import register_all
from rpc.registry import REGISTRY

__all__ = ["Change", "RecordedChain", "ReplayNode", "run_replay", "start_replay"]


class ReplayNode(PlayedNode):
    """A node that plays a recording. Nothing moves but by `advance` or `play`."""

    def __init__(self, chain: RecordedChain, *, hide_future: bool = False, answers: Sequence[Path] = ()) -> None:
        register_all()

        registry = with_answers(REGISTRY, answers) if answers else REGISTRY
        super().__init__(chain.store, chain.network, NodeHeads(chain.first), agent="replay", registry=registry)
        self.chain = chain
        self.played = 0
        if hide_future:
            arrivals = chain.arrivals()
            self.store.hides = lambda multihash: arrivals.get(multihash, 0) > self.played

    @property
    def ended(self) -> bool:
        """Whether every recorded change was played."""
        return self.played == len(self.chain.changes)

    def advance(self, changes: int = 1) -> None:
        """Play the next changes at once."""
        for change in self.chain.changes[self.played : self.played + changes]:
            self.played += 1
            self.heads.move(change.reverts, change.applies, change.head)
            self.after_move()

    async def play(
        self, *, speed: float = 1.0, interval: float | None = None, as_consumed: bool = False
    ) -> AsyncIterator[int]:
        """Play to the end: every `interval` seconds, else at `speed` times the recorded pace.

        `as_consumed`: each change as soon as every subscriber has taken the one before; without a subscriber
        nothing moves. Yields the number of changes played after each one. Errors: BadRequest (a speed of 0).
        """
        if speed <= 0 or (interval is not None and interval < 0):
            raise BadRequest("the speed of a replay must be above 0, its interval 0 or more")
        before = self.chain.changes[self.played].at if not self.ended else 0.0
        while not self.ended:
            change = self.chain.changes[self.played]
            if as_consumed:
                await self.heads.wait_until_consumed()
            else:
                wait = interval if interval is not None else max(0.0, change.at - before) / speed
                await asyncio.sleep(wait)
            before = change.at
            self.advance()
            yield self.played
            await self.restart_if_due()


async def start_replay(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: Faults | None = None,
    at_end: bool = False,
    hide_future: bool = False,
    answers: Sequence[Path] = (),
) -> ReplayNode:
    """Load a recording and serve it; the head stands at the recording's first (or, `at_end`, its last).

    `hide_future`: an object is not there before the head change that needs it. `answers`: files of recorded
    calls. Errors: OSError, BadCar, BadRequest.
    """
    node = ReplayNode(await RecordedChain.load(folder, faults), hide_future=hide_future, answers=answers)
    if at_end:
        node.advance(len(node.chain.changes))
    await node.start(host, port)
    return node


async def run_replay(
    stop: asyncio.Event,
    *,
    folder: Path,
    host: str,
    port: int,
    speed: float = 1.0,
    interval: float | None = None,
    as_consumed: bool = False,
    at_end: bool = False,
    hide_future: bool = False,
    answers: Sequence[Path] = (),
    faults: Faults | None = None,
) -> int:
    """`follower replay`: play, then stand still until `stop` is set. Errors: as `start_replay`."""
    node = await start_replay(
        folder, host=host, port=port, faults=faults, at_end=at_end, hide_future=hide_future, answers=answers
    )
    print(f"replaying {folder} at {node.url}", flush=True)

    async def play() -> None:
        async for _ in node.play(speed=speed, interval=interval, as_consumed=as_consumed):
            pass
        print(f"the recording has ended at epoch {node.head.height}", flush=True)

    playing = asyncio.create_task(play())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({playing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
            await stopped
    finally:
        for task in (playing, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await node.stop()
    return 0
