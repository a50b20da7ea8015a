"""The final and the safe tipset of a request's head: by F3's certificate, and by the calculator of FRC-0089.

Source: Lotus `node/impl/full/chain_v2.go`, `chain/ecfinality`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cachetools import LRUCache

from blockstore.errors import BadCid, Missing
from blockstore.store import RECORDED
from chain.consensus.finality import FINALITY, WINDOW, threshold_depth
from chain.errors import BadObject, NotHeld
from chain.index.recorded_answers import F3_CERTIFICATE
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.lookup.ahead.recent_questions import Question, note_question
from rpc.lookup.ancestors import ancestry_of

#: epochs after which the expected consensus is final
CHAIN_FINALITY: Final = 900
#: a safe tipset lies so many epochs below the head, if nothing newer is final
SAFE_DISTANCE: Final = 200
#: heads whose F3 certificates are remembered
_HEADS: Final = 1024
#: epochs whose certificates are read together: the head's own, then those of its ancestors
_SPANS: Final = (1, 16, 128, CHAIN_FINALITY)

log = logging.getLogger(__name__)


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
    kept: dict[TipsetKey, asyncio.Task[EcFinality]] = ctx.caches.setdefault("ec_finality", {})
    task = kept.get(head.key)
    if task is None or _has_failed(task):
        # of the request that came first, but shared: it goes on when that client leaves
        task = asyncio.create_task(_ec_finality(ctx, head))
        kept.clear()
        kept[head.key] = task
    return await asyncio.shield(task)


def _has_failed(task: asyncio.Task[EcFinality]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


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
    note_question(ctx, Question.FINALITY)
    by_ec = await ec_finalized(ctx)
    by_f3 = await f3_finalized(ctx, by_ec.height + 1)
    return by_ec if by_f3 is None else by_f3


async def safe_tipset(ctx: Context) -> Tipset:
    """What `safe` means: 200 epochs below the head, or the final tipset where that is newer. Errors: NotHeld."""
    head = (await ctx.head()).tipset
    height = max(0, head.height - SAFE_DISTANCE)
    final = await finalized_tipset(ctx)
    return final if final.height >= height else await ancestry_of(ctx).at_height(head, height)


# --- F3 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Certified:
    """The tipset that F3 has finalized as of a head. `seq` is the head's in the head log."""

    seq: int
    tipset: Tipset | None


async def f3_finalized(ctx: Context, above: int) -> Tipset | None:
    """The tipset that F3 has finalized as of the request's head, if it is recorded and not below `above`.

    The certificate is the newest one that is recorded beside the head or its ancestors, down to `CHAIN_FINALITY`: one
    that came late for this head does not take finality back.
    """
    head = await ctx.head()
    cache: LRUCache[TipsetKey, _Certified] | None = ctx.caches.get("f3_certified")
    if cache is None:
        cache = ctx.caches["f3_certified"] = LRUCache(_HEADS)
    found = cache.get(head.tipset.key)
    # a tipset that becomes the head again may have got a newer certificate
    if found is None or found.seq != head.seq:
        search = _CertificateSearch(ctx, head.tipset, cache)
        found = _Certified(head.seq, await search.run())
        if search.is_complete:
            cache[head.tipset.key] = found
    final = found.tipset
    return None if final is None or final.height < above else final


class _CertificateSearch:
    """Finds the newest certificate beside a head and its ancestors whose tipset is on the head's chain.

    `known` are the results of earlier heads. `is_complete` is False where a certificate was left out because its
    tipset is not held now.
    """

    def __init__(self, ctx: Context, head: Tipset, known: Mapping[TipsetKey, _Certified]) -> None:
        self._ctx = ctx
        self._head = head
        self._known = known
        self.is_complete = True

    async def run(self) -> Tipset | None:
        """Errors: StoreError."""
        low, top = max(0, self._head.height - CHAIN_FINALITY), self._head.height
        for span in _SPANS:
            bottom = max(low, top - span + 1)
            try:
                chain = await ancestry_of(self._ctx).tipsets_between(self._head, bottom, top)
            except NotHeld:
                break  # nothing is held below, no certificates either
            rows = await self._ctx.store.rows(RECORDED, [(one.key.cid, F3_CERTIFICATE) for one in chain])
            for one, row in zip(reversed(chain), reversed(rows), strict=True):
                if row is not None and (final := await self._certified_by(row)) is not None:
                    return final
                below = self._known.get(one.key)
                if below is not None and one.key != self._head.key:
                    return below.tipset
            top = bottom - 1
            if top < low:
                break
        return None

    async def _certified_by(self, certificate: bytes) -> Tipset | None:
        """The tipset that a certificate finalizes; None where that is on another chain, or not held."""
        try:
            last = orjson.loads(certificate)["ECChain"][-1]
            key, epoch = decode_f3_key(last["Key"]), last["Epoch"]
            if not await ancestry_of(self._ctx).is_ancestor(key, epoch, self._head):
                return None
            return await self._ctx.index.tipset(key)
        except (Missing, NotHeld):
            self.is_complete = False
        except (BadCid, BadObject, KeyError, IndexError, TypeError, ValueError) as error:
            log.warning("a recorded F3 certificate cannot be read: %r", error)
        return None


def decode_f3_key(key: Any) -> TipsetKey:
    """A tipset key as F3's certificates have it: base64 of the CIDs. Errors: ValueError."""
    return TipsetKey(base64.b64decode(key, validate=True))
