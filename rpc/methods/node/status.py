"""The follower's own status: what `lotus info`, `lotus status` and `lotus sync` read.

A follower validates no blocks and has no peers. Its sync is always complete up to its head.
Sources: Lotus `node/impl/full.go` (`NodeStatus`), `node/impl/full/sync.go`, `node/impl/common`, `cli/info.go`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from chain.consensus.ancestry import Ancestor
from chain.tipset import Tipset
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.finality import CHAIN_FINALITY
from rpc.lookup.tipsets import load_tipset
from rpc.lotus_json import json_cache
from rpc.registry import Cache, Cost, method

#: Lotus counts how far it is behind in these seconds, on every network
_EPOCH_SECONDS: Final = 30
_SHORT: Final = 100
#: Lotus' `StageSyncComplete`
_COMPLETE: Final = 4


def go_time(seconds: float) -> str:
    """A Unix time as Go writes one in JSON: RFC 3339 in UTC, with no zeros at the end of a fraction."""
    found = datetime.fromtimestamp(seconds, UTC)
    fraction = f"{found.microsecond:06}".rstrip("0")
    return found.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"


@method("Filecoin.StartTime", cost=Cost.FREE, answered="local", cache=Cache.NEVER)
async def start_time(ctx: Context) -> str:
    """When this process began to serve."""
    return go_time(ctx.services.started_at)


@method("Filecoin.NodeStatus", cost=Cost.CHAIN, cache=Cache.NEVER)
async def node_status(ctx: Context, with_chain: bool) -> dict[str, Any]:
    """The head, its age in units of 30 s, and (`with_chain`) the recent number of blocks per tipset.

    The numbers of peers are 0. Errors: NotHeld (the last 900 tipsets).
    """
    head = (await ctx.head()).tipset
    age = max(0.0, time.time() - min(block.timestamp for block in head.blocks))
    short = long = 0.0
    if with_chain and head.height > CHAIN_FINALITY:
        blocks = await _newest_block_counts(ctx, head, CHAIN_FINALITY)
        short, long = sum(blocks[-_SHORT:]) / _SHORT, sum(blocks) / CHAIN_FINALITY
    return {
        "SyncStatus": {"Epoch": head.height, "Behind": int(age / _EPOCH_SECONDS)},
        "PeerStatus": {"PeersToPublishMsgs": 0, "PeersToPublishBlocks": 0},
        "ChainStatus": {"BlocksPerTipsetLast100": short, "BlocksPerTipsetLastFinality": long},
    }


async def _newest_block_counts(ctx: Context, head: Tipset, count: int) -> list[int]:
    """The number of blocks of each of the newest `count` tipsets, oldest first. Errors: NotHeld."""
    low = head.height + 1
    found: list[Ancestor] = []
    while len(found) < count and low > 0:
        # null rounds have no tipset: further down by as many epochs as tipsets lack
        low = max(0, low - (count - len(found)))
        found = await ancestry_of(ctx).tipsets_between(head, low, head.height)
    return [len(ancestor.key.cids) for ancestor in found[-count:]]


@method("Filecoin.SyncState", cost=Cost.CHAIN, answered="local", cache=Cache.NEVER)
async def sync_state(ctx: Context) -> dict[str, Any]:
    """One complete sync, from the head's parent to the head.

    Errors: NotFound (the parent).
    """
    head = (await ctx.head()).tipset
    cache = json_cache(ctx)
    base = head if head.height == 0 else await load_tipset(ctx, head.parents)
    at = go_time(min(block.timestamp for block in head.blocks))
    sync = {
        "WorkerID": 0,
        "Base": cache.tipset(base),
        "Target": cache.tipset(head),
        "Stage": _COMPLETE,
        "Height": head.height,
        "Start": at,
        "End": at,
        "Message": "",
    }
    return {"ActiveSyncs": [sync], "VMApplied": 0}
