"""A whole tipset executed: null rounds, every block's messages, rewards, cron.

Source: Lotus `chain/consensus/compute_state.go`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cachetools import LRUCache

from blockstore.cid import Cid
from chain.address import from_id
from chain.errors import NotHeld
from chain.ipld.amt import amt_build
from chain.known_networks import CALIBNET
from chain.message import encode_message
from chain.network import NetworkRecord
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage, load_tipset_block_messages
from rpc.context import Context
from rpc.executor import Applied, Executor, Place, Reward, Step, implicit_step
from rpc.lookup.senders import id_of

log = logging.getLogger("follower.execution")

CRON: Final = from_id(3)
_EPOCH_TICK: Final = 2
#: the width of events' arrays
_EVENT_BITS: Final = 5
#: network versions whose upgrade changes no state
_NO_MIGRATION: Final = frozenset({20, 26})
#: epochs at which a network's state was mended without a new network version
_MENDED: Final = {CALIBNET.genesis: (1070494, 1108174, 1493854, 2558014)}
#: from this network version on, receipts name their events
EVENTS_SINCE: Final = 18


@dataclass(frozen=True, slots=True)
class Executed:
    """The roots of a tipset's state and receipts, and what became of each of its messages, in order.

    `steps` has the rewards and the cron too, those of null rounds before. `objects` by multihash, where asked for.
    """

    root: Cid
    receipts: Cid
    messages: tuple[tuple[IncludedMessage, Applied], ...]
    steps: tuple[tuple[Step, Applied], ...]
    objects: Mapping[bytes, bytes]


def explicit(one: IncludedMessage) -> Step:
    """A message on chain."""
    return Step(encode_message(one.message), len(one.raw), cid=one.cid)


def crosses_migration(network: NetworkRecord, low: int, high: int) -> int | None:
    """The epoch in `[low, high)` at which an upgrade or a mending changes the state; None where there is none."""
    changes = [height for height, version in network.upgrades if version not in _NO_MIGRATION]
    found = (height for height in (*changes, *_MENDED.get(network.genesis, ())) if low <= height < high)
    return min(found, default=None)


def refuse_migration(network: NetworkRecord, low: int, high: int) -> None:
    """Refuse to go through a change of the state in `[low, high)`. Errors: NotHeld."""
    epoch = crosses_migration(network, low, high)
    if epoch is not None:
        raise NotHeld(f"execution across the change of the state at epoch {epoch}")


def place_at(ctx: Context, tipset: Tipset, root: Cid, epoch: int, timestamp: int, *, tracing: bool = False) -> Place:
    """Where a machine runs for a tipset."""
    return Place(
        root=root,
        epoch=epoch,
        timestamp=timestamp,
        network_version=ctx.network.version_at(epoch),
        chain_id=ctx.network.eth_chain_id,
        base_fee=tipset.blocks[0].parent_base_fee,
        anchor=tipset.key,
        tracing=tracing,
    )


async def state_before(
    ctx: Context, executor: Executor, tipset: Tipset, *, tracing: bool = False
) -> tuple[Cid, list[tuple[Step, Applied]]]:
    """The state that a tipset's messages meet: its parent state, after the cron of the null rounds between.

    With it, the steps of those. Errors: NotHeld, Unavailable.
    """
    root = tipset.parent_state_root
    done: list[tuple[Step, Applied]] = []
    if tipset.height == 0:
        return root, done
    parent = await ctx.index.parent(tipset)
    refuse_migration(ctx.network, parent.height, tipset.height)
    if parent.height + 1 < tipset.height:
        genesis = (await ctx.index.genesis()).blocks[0].timestamp
        for epoch in range(parent.height + 1, tipset.height):
            timestamp = genesis + ctx.network.block_delay * epoch
            place = place_at(ctx, tipset, root, epoch, timestamp, tracing=tracing)
            run = await executor.run(place, [implicit_step(CRON, _EPOCH_TICK, b"", epoch)], keep_state=True)
            _demand_success(run.applied[-1], f"cron of epoch {epoch}")
            assert run.root is not None
            root = run.root
            done += zip(run.steps, run.applied, strict=True)
    return root, done


async def execute_tipset(
    ctx: Context, executor: Executor, tipset: Tipset, *, tracing: bool = False, objects: bool = False
) -> Executed:
    """Execute a tipset. The state that it makes stays with the executor. Errors: NotHeld, Unavailable.

    `objects`: what state, receipts and events are made of is returned too.
    """
    root, before = await state_before(ctx, executor, tipset, tracing=tracing)
    blocks = await load_tipset_block_messages(ctx.objects, tipset, ctx.network, id_of(ctx))
    by_block = [[*bls, *signed] for bls, signed in blocks]
    place = place_at(ctx, tipset, root, tipset.height, tipset.min_timestamp, tracing=tracing)
    steps: list[Step | Reward] = []
    for block, messages in zip(tipset.blocks, by_block, strict=True):
        steps += [explicit(one) for one in messages]
        win_count = block.election_proof[0] if block.election_proof else 0
        steps.append(Reward(bytes(block.miner), win_count, len(messages), tipset.height))
    steps.append(implicit_step(CRON, _EPOCH_TICK, b"", tipset.height))
    run = await executor.run(place, steps, keep_state=True, objects=objects)
    done: list[tuple[IncludedMessage, Applied]] = []
    at = 0
    for messages in by_block:
        done += zip(messages, run.applied[at : at + len(messages)], strict=True)
        at += len(messages) + 1
        _demand_success(run.applied[at - 1], f"the reward of a block at epoch {tipset.height}")
    _demand_success(run.applied[-1], f"cron of epoch {tipset.height}")
    assert run.root is not None
    made: dict[bytes, bytes] = dict(run.objects)
    has_events = ctx.network.version_at(tipset.height) >= EVENTS_SINCE
    receipts = await _receipts(made, [applied for _, applied in done], has_events)
    all_steps = (*before, *zip(run.steps, run.applied, strict=True))
    return Executed(run.root, receipts, tuple(done), all_steps, made if objects else {})


async def _receipts(made: dict[bytes, bytes], applied: Sequence[Applied], has_events: bool) -> Cid:
    """The root of the receipts; their objects, and those of their events, go into `made`."""

    def put(cid: Cid, data: bytes) -> None:
        made[cid.multihash] = data

    rows: list[list[Any]] = []
    for one in applied:
        rows.append([one.exit_code, one.return_, one.gas_used, *([one.events_root] if has_events else [])])
        if one.events_root is not None:
            events = [[emitter, [list(entry) for entry in entries]] for emitter, entries in one.events]
            if await amt_build(put, events, bit_width=_EVENT_BITS) != one.events_root:
                raise NotHeld("the events of an executed message: their root differs from the machine's")
    return await amt_build(put, rows, version=0)


async def executed_roots(ctx: Context, executor: Executor, tipset: Tipset) -> tuple[Cid, Cid]:
    """The roots of state and receipts after a tipset that has no child yet. Executed once for all who ask.

    What they are made of can be read like what is stored, for a while. Errors: NotHeld, Unavailable.
    """
    known = _executed(ctx)
    kept = known.roots.get(tipset.key)
    if kept is not None:
        return kept
    running = known.running.get(tipset.key)
    if running is None:
        running = known.running[tipset.key] = asyncio.get_running_loop().create_task(_execute(ctx, executor, tipset))
        running.add_done_callback(lambda _: known.running.pop(tipset.key, None))
    return await asyncio.shield(running)


async def _execute(ctx: Context, executor: Executor, tipset: Tipset) -> tuple[Cid, Cid]:
    done = await execute_tipset(ctx, executor, tipset, objects=True)
    ctx.objects.remember(done.objects)
    found = _executed(ctx).roots[tipset.key] = done.root, done.receipts
    return found


class _Known:
    """What was executed here: roots by tipset key, and what is under way."""

    def __init__(self) -> None:
        self.roots: LRUCache[bytes, tuple[Cid, Cid]] = LRUCache(64)
        self.running: dict[bytes, asyncio.Task[tuple[Cid, Cid]]] = {}


def _executed(ctx: Context) -> _Known:
    known: _Known | None = ctx.extra.get("executed_tipsets")
    if known is None:
        known = ctx.extra["executed_tipsets"] = _Known()
    return known


def check_executed(ctx: Context, tipset: Tipset, state: Cid, receipts: Cid) -> None:
    """Compare what was executed with what the chain says. A difference ends execution until an operator looks."""
    known = ctx.extra.get("executed_tipsets")
    made = None if known is None else known.roots.pop(tipset.key, None)
    if made is not None and made != (state, receipts):
        log.error(
            "executing the tipset at epoch %d gave state %s and receipts %s, the chain has %s and %s: "
            "nothing is executed here any more",
            tipset.height, *made, state, receipts,
        )  # fmt: skip
        ctx.services.executor = None


def _demand_success(applied: Applied, what: str) -> None:
    if applied.exit_code:
        raise NotHeld(f"{what}: the virtual machine ends it with exit code {applied.exit_code}: {applied.failure}")
