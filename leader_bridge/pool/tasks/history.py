"""Tasks that make or fetch what the past lacks: receipts with their events, traces; and the repair of coverage."""

from __future__ import annotations

from typing import Final

import orjson

from blockstore.store import HEIGHTS, META, RECORDED, Batch, Store
from chain.errors import ChainError
from chain.index.chain_index import HELD_EVENTS, HELD_RECEIPTS, height_row
from chain.index.kept import load_kept
from chain.index.recorded_answers import TRACES, TRACES_INDEX, keep_answer
from chain.tipset import Tipset
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.nodes.sources import NoSource
from leader_bridge.pool.reports import Claim, Status
from leader_bridge.pool.tasks.task import CannotDo, Outcome, TaskContext, TaskKind, TaskRun
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.executed_receipts import genesis_receipts
from leader_bridge.store.execution import TipsetExecution, require_equal
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.post_rows import add_post_rows
from leader_bridge.store.tipset_writer import MirrorScope, NotAvailableYet, TipsetWriter
from leader_bridge.store.traces import FLOOR, Moved, traces_of
from rpc.errors import CannotExecute, ExecutionRefused

_RECEIPTS: Final = HELD_RECEIPTS | HELD_EVENTS


def _execution(context: TaskContext) -> TipsetExecution | None:
    if context.executor is None:
        return None
    return TipsetExecution(context.store, context.executor, context.reads)


def _receipts(context: TaskContext) -> TaskRun:
    execution = _execution(context)
    if execution is None and context.fetcher is None:
        raise CannotDo("receipts need a node (--node) or an executor (--execution)")
    fetcher = context.fetcher or NoNodes()

    async def executed(tipset: Tipset, child: Tipset) -> dict[bytes, bytes] | str:
        """The objects of a tipset's receipts; or why there are none."""
        if tipset.height == 0:
            return await genesis_receipts(child) or "the genesis has receipts of its own"
        if execution is None:
            return "the nodes do not hold them"
        try:
            done = await execution.execute(tipset)
        except (CannotExecute, ExecutionRefused, ChainError) as error:
            return str(error)
        require_equal(tipset, (done.root, done.receipts), (child.parent_state_root, child.parent_message_receipts))
        return dict(done.receipt_objects)

    async def run(store: Store, tipset: Tipset) -> Outcome:
        child = await context.child(tipset)
        claim = Claim(flagged=bytes(child.key), flags=_RECEIPTS)
        row = await context.index.row(child.key, fresh=True)
        if row is not None and row.held & _RECEIPTS == _RECEIPTS:
            return Outcome()
        kept = await load_kept(store)
        if tipset.height < kept.messages:
            return Outcome(Status.SKIP, f"the store keeps receipts from epoch {kept.messages} on")
        writer = TipsetWriter(store, Mirror(store, fetcher), keeps_messages=kept.policy.get("messages", 0) is None)
        try:
            (held,) = await writer.mirror([child], MirrorScope(messages=False, state=False), retries_missing=False)
        except (NoSource, NotAvailableYet):
            held = 0
        if held & _RECEIPTS == _RECEIPTS:
            return Outcome(claim=claim)
        objects = await executed(tipset, child)
        if isinstance(objects, str):
            return Outcome(Status.SKIP, f"the receipts of epoch {tipset.height}: {objects}")
        await writer.contents().put_many(list(objects.items()), closed=True)
        return Outcome(claim=claim)

    return run


def _traces(context: TaskContext) -> TaskRun:
    execution = _execution(context)
    client = context.client
    if execution is None and client is None:
        raise CannotDo("traces need a node (--node) or an executor (--execution)")

    async def made(tipset: Tipset) -> bytes | str:
        why = "no node is named"
        if execution is not None:
            try:
                return await execution.traces(tipset)
            except (CannotExecute, ExecutionRefused, ChainError) as error:
                why = str(error)
        if client is None:
            return why
        try:
            return orjson.dumps(await traces_of(client, tipset))
        except Moved as error:
            return str(error)

    async def run(store: Store, tipset: Tipset) -> Outcome:
        # what a tipset did is compared with what its child's header says
        await context.child(tipset)
        below = await context.parent_height(tipset)
        claim = Claim(TRACES_INDEX, below + 1 if below >= 0 else tipset.height, tipset.height)
        # no message made the genesis: there is nothing to trace
        if tipset.height == 0 or await store.row(RECORDED, tipset.key.cid, TRACES) is not None:
            return Outcome(claim=claim)
        floor = await store.row(META, b"", FLOOR)
        if floor is not None and tipset.height < int(orjson.loads(floor)):
            return Outcome(Status.SKIP, "the bridge removes traces of such an age (trace_lookback_epochs)")
        answer = await made(tipset)
        if isinstance(answer, str):
            return Outcome(Status.SKIP, f"the traces of epoch {tipset.height}: {answer}")
        try:
            await keep_answer(store, tipset.key.cid, TRACES, answer)
        except ValueError as error:
            return Outcome(Status.SKIP, str(error))
        return Outcome(claim=claim)

    return run


def _coverage(context: TaskContext) -> TaskRun:
    async def run(store: Store, tipset: Tipset) -> Outcome:
        row = await context.index.row(tipset.key, fresh=True)
        if row is None:
            return Outcome(Status.SKIP, "the tipset has no row: `follower store check --repair` writes it")
        if row.parent_height < 0 and tipset.height:
            return Outcome(Status.SKIP, "the row does not know its parent: the bridge links it in its next pass")
        partition, prefix = height_row(tipset.height)
        batch = Batch()
        batch.put(HEIGHTS, partition, prefix + tipset.key.cid, bytes(tipset.key))
        await add_post_rows(store, batch, [tipset], are_published=True)
        await store.write(batch)
        low = row.parent_height + 1 if tipset.height else 0
        return Outcome(claim=Claim(TIPSETS_INDEX, low, tipset.height))

    return run


KINDS: Final = (
    TaskKind("receipts", "Receipts and their events, from a node or by execution.", _receipts),
    TaskKind("traces", "The traces of a tipset, by execution or from a node.", _traces),
    TaskKind("coverage", "Rows by epoch and of the state after the parent, and that they are covered.", _coverage),
)
