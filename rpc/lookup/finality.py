"""The final and the safe tipset of a request's head: by F3's certificate, and by the calculator of FRC-0089.

Source: Lotus `node/impl/full/chain_v2.go`, `chain/ecfinality`.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any, Final

import orjson

from blockstore.errors import Missing
from blockstore.store import RECORDED
from chain.consensus.finality import FINALITY, WINDOW, threshold_depth
from chain.index.recorded_answers import F3_CERTIFICATE
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of

#: epochs after which the expected consensus is final
CHAIN_FINALITY: Final = 900
#: a safe tipset lies so many epochs below the head, if nothing newer is final
SAFE_DISTANCE: Final = 200


@dataclass(frozen=True, slots=True)
class EcFinality:
    """What the calculator found at a head: the least final depth in epochs (-1: none), and its tipset."""

    depth: int
    tipset: Tipset | None


async def blocks_by_epoch(ctx: Context, head: Tipset) -> list[int] | None:
    """The number of blocks of each of the newest `WINDOW` epochs, oldest first; None on a shorter chain.

    Errors: NotHeld, when the chain is longer but not held so far.
    """
    low = head.height - WINDOW + 1
    if low < 0:
        return None
    counts = [0] * WINDOW
    for place in await ancestry_of(ctx).tipsets_between(head, low, head.height):
        counts[place.height - low] = len(place.key.cids)
    return counts


async def ec_finality(ctx: Context) -> EcFinality:
    """The calculator's result at the request's head, computed once a head. Errors: NotHeld."""
    head = (await ctx.head()).tipset
    kept: dict[TipsetKey, asyncio.Task[EcFinality]] = ctx.extra.setdefault("ec_finality", {})
    task = kept.get(head.key)
    if task is None:
        # of the request that came first, but shared: it goes on when that client leaves
        task = asyncio.create_task(_ec_finality(ctx, head))
        kept.clear()
        kept[head.key] = task
    return await asyncio.shield(task)


async def _ec_finality(ctx: Context, head: Tipset) -> EcFinality:
    counts = await blocks_by_epoch(ctx, head)
    if counts is None:
        return EcFinality(-1, None)
    depth = await asyncio.to_thread(threshold_depth, counts)
    if depth < 0:
        return EcFinality(-1, None)
    return EcFinality(depth, await ancestry_of(ctx).at_height(head, max(0, head.height - depth)))


async def ec_finalized(ctx: Context) -> Tipset:
    """The calculator's final tipset, else the one 900 epochs back. Errors: NotHeld."""
    found = (await ec_finality(ctx)).tipset
    if found is not None:
        return found
    head = (await ctx.head()).tipset
    return await ancestry_of(ctx).at_height(head, max(0, head.height - FINALITY))


async def finalized_tipset(ctx: Context) -> Tipset:
    """What `finalized` means under v2 and eth: the newer of F3's and the calculator's. Errors: NotHeld."""
    by_ec = await ec_finalized(ctx)
    by_f3 = await f3_finalized(ctx, by_ec.height + 1)
    return by_ec if by_f3 is None else by_f3


async def safe_tipset(ctx: Context) -> Tipset:
    """What `safe` means: 200 epochs below the head, or the final tipset where that is newer. Errors: NotHeld."""
    head = (await ctx.head()).tipset
    height = max(0, head.height - SAFE_DISTANCE)
    final = await finalized_tipset(ctx)
    return final if final.height >= height else await ancestry_of(ctx).at_height(head, height)


async def f3_finalized(ctx: Context, above: int) -> Tipset | None:
    """The tipset that F3 has finalized as of the request's head, if it is recorded and not below `above`."""
    head = (await ctx.head()).tipset
    recorded = await ctx.store.row(RECORDED, head.key.cid, F3_CERTIFICATE)
    if recorded is None:
        return None
    certificate = orjson.loads(recorded)
    chain = certificate.get("ECChain") if isinstance(certificate, dict) else None
    if not chain:
        return None
    last = chain[-1]
    if last["Epoch"] < above:
        return None
    key = last["Key"]
    try:
        return await ctx.index.tipset(decode_f3_key(key))
    except (Missing, ValueError):
        return None


def decode_f3_key(key: Any) -> TipsetKey:
    """A tipset key as F3's certificates have it: base64 of the CIDs. Errors: ValueError."""
    return TipsetKey(base64.b64decode(key, validate=True))
