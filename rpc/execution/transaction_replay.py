"""One message of a tipset executed again, on the state that it met there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockstore.cid import Cid
from chain.errors import BadRequest, NotHeld
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage
from rpc.context import Context
from rpc.executor import Applied, Executor
from rpc.lookup.eth.executed_tipset import PostRoots, load_receipts
from rpc.lookup.self_check import execute_checked
from rpc.lookup.tipset_execution import place_at, state_before, tipset_steps


@dataclass(frozen=True, slots=True)
class Replayed:
    """A message, its index among those of its tipset, the states before and after it, and what became of it."""

    one: IncludedMessage
    index: int
    before: Cid
    after: Cid
    applied: Applied


async def replay_message(ctx: Context, executor: Executor, tipset: Tipset, cid: Cid) -> Replayed:
    """Execute a message with its trace, after those before it. Both states can be read for a while.

    Errors: BadRequest (not of this tipset), NotHeld, Unavailable.
    """
    by_block, steps = await tipset_steps(ctx, tipset)
    messages = [one for block in by_block for one in block]
    index = next((at for at, one in enumerate(messages) if one.cid == cid), None)
    if index is None:
        raise BadRequest("transaction not found")
    start, _ = await state_before(ctx, executor, tipset, objects=True)
    place = place_at(ctx, tipset, start, tipset.height, tipset.min_timestamp)
    at = next(at for at, step in enumerate(steps) if getattr(step, "cid", None) == cid)
    before = start
    if at:
        run = await executor.run(place, steps[:at], keep_state=True, objects=True)
        assert run.root is not None
        before = run.root
        ctx.objects.remember(dict(run.objects))
    place = replace(place, root=before, supply_root=start, tracing=True)
    run = await executor.run(place, steps[at : at + 1], keep_state=True, objects=True)
    assert run.root is not None
    ctx.objects.remember(dict(run.objects))
    (applied,) = run.applied
    await _check(ctx, executor, tipset, index, applied)
    return Replayed(messages[index], index, before, run.root, applied)


async def _check(ctx: Context, executor: Executor, tipset: Tipset, index: int, applied: Applied) -> None:
    """Compare the receipt with the chain's, where that is held. Errors: NotHeld."""
    post = await ctx.index.post(tipset.key)
    if post is None:
        return
    try:
        receipt = (await load_receipts(ctx, tipset, PostRoots(*post)))[index]
    except NotHeld:
        return
    if (receipt.exit_code, receipt.return_, receipt.gas_used) != (
        applied.exit_code,
        applied.return_,
        applied.gas_used,
    ):
        # where the whole tipset differs too, this stops execution
        await execute_checked(ctx, executor, tipset)
        raise NotHeld(f"message {index} of epoch {tipset.height}: executed here, it ends in another way")
