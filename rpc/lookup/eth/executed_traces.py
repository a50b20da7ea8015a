"""A tipset's traces, made by executing it: what the `trace_*` methods answer where the bridge recorded none."""

from __future__ import annotations

from typing import Any

import orjson

from chain.address import Address
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.errors import BadObject, NotHeld
from chain.index.event_index import message_hash
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import Context
from rpc.executor import Executor
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.block_parameter import block_hash
from rpc.lookup.eth.parity_traces import traces_of
from rpc.lookup.eth.transactions import resolve_eth_address
from rpc.lookup.self_check import execute_checked
from rpc.lookup.tipset_execution import Chain, Executed


async def execute_traces(ctx: Context, executor: Executor, tipset: Tipset) -> bytes:
    """A tipset's `trace_block` answer, JSON. Kept in memory. Errors: NotHeld, Unavailable."""
    cache = decoded_cache(ctx, "executed_traces")
    kept = cache.get(tipset.key)
    if kept is not None:
        found: bytes = kept[0]
        return found
    done = await execute_checked(ctx, executor, tipset, tracing=True, objects=True)
    answer = await traces_json(ctx, tipset, done, ctx.checkpoint)
    keep(cache, tipset.key, answer, len(answer) + 200)
    return answer


async def traces_json(chain: Chain, tipset: Tipset, done: Executed, checkpoint: Checkpoint = no_checkpoint) -> bytes:
    """The `trace_block` answer, JSON, of a tipset that was executed with its trace and its objects. Errors: NotHeld."""
    chain.objects.remember(done.objects)
    tree = await StateTree.load(chain.objects, done.root)
    digest = eth_json.data(block_hash(tipset))
    texts: list[bytes] = []
    for position, (one, applied) in enumerate(done.messages):
        await checkpoint()
        place: dict[str, Any] = {
            "blockHash": digest,
            "blockNumber": tipset.height,
            "transactionHash": eth_json.data(message_hash(one, chain.network.eth_chain_id)),
            "transactionPosition": position,
        }
        caller = await resolve_eth_address(tree, Address(one.message.from_))
        try:
            shown = await traces_of(caller, applied.trace, checkpoint)
        except BadObject as error:
            raise NotHeld(f"the traces of message {one.cid}: {error}") from None
        if shown:
            texts.append(orjson.dumps([trace | place for trace in shown])[1:-1])
    return b"[%b]" % b",".join(texts)
