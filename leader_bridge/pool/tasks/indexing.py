"""Tasks that write index rows from what the store holds: message inclusion, Ethereum hashes, events."""

from __future__ import annotations

from typing import Final

from blockstore.errors import Missing
from blockstore.store import Batch, Store
from chain.index.chain_index import HELD_MESSAGES, INDEXED_EVENTS
from chain.index.coverage import MESSAGES_INDEX
from chain.index.eth_rows import ETH_TXS_INDEX, index_eth_txs
from chain.index.event_index import index_events
from chain.index.event_rows import EVENTS_INDEX
from chain.tipset import Tipset
from chain.tipset_messages import load_message_cids
from leader_bridge.pool.reports import Claim
from leader_bridge.pool.tasks.task import Outcome, TaskContext, TaskKind, TaskRun
from leader_bridge.store.indexer import EVENTS_NEED, BlockMessages, index_messages, signed_messages


async def _listed(context: TaskContext, tipset: Tipset) -> list[BlockMessages]:
    return [await load_message_cids(context.objects, block.messages) for block in tipset.blocks]


async def _claim(context: TaskContext, index: bytes, tipset: Tipset) -> Claim:
    """What the rows of one tipset cover: its epoch and the null rounds before it."""
    below = await context.parent_height(tipset)
    return Claim(index, below + 1 if below >= 0 else tipset.height, tipset.height)


def _messages(context: TaskContext) -> TaskRun:
    async def run(store: Store, tipset: Tipset) -> Outcome:
        try:
            listed = await _listed(context, tipset)
        except Missing:
            return await context.lacking(tipset.key, HELD_MESSAGES, f"the messages of epoch {tipset.height}")
        batch = Batch()
        index_messages(batch, tipset, listed)
        await store.write(batch)
        return Outcome(claim=await _claim(context, MESSAGES_INDEX, tipset))

    return run


def _eth_hashes(context: TaskContext) -> TaskRun:
    async def run(store: Store, tipset: Tipset) -> Outcome:
        network = await context.network()
        batch = Batch()
        try:
            listed = await _listed(context, tipset)
            await index_eth_txs(batch, context.objects, signed_messages([listed]), network.eth_chain_id)
        except Missing:
            return await context.lacking(tipset.key, HELD_MESSAGES, f"the messages of epoch {tipset.height}")
        await store.write(batch)
        return Outcome(claim=await _claim(context, ETH_TXS_INDEX, tipset))

    return run


def _events(context: TaskContext) -> TaskRun:
    async def run(store: Store, tipset: Tipset) -> Outcome:
        network = await context.network()
        child = await context.child(tipset)
        batch = Batch()
        if not await index_events(batch, context.objects, tipset, child, network):
            what = f"receipts, events or state after epoch {tipset.height}"
            return await context.lacking(child.key, EVENTS_NEED, what)
        await store.write(batch)
        claim = Claim(EVENTS_INDEX, tipset.height, child.height - 1, bytes(child.key), INDEXED_EVENTS)
        return Outcome(claim=claim)

    return run


KINDS: Final = (
    TaskKind("messages", "Which tipsets include a message.", _messages),
    TaskKind("eth_hashes", "Ethereum transaction hash to message.", _eth_hashes),
    TaskKind("events", "Events by emitter and topic.", _events),
)
