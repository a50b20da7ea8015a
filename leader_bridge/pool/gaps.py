"""Finding gaps: which tasks no worker has done for which tipsets of the chain."""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.store import Store
from chain.errors import BadRequest, NotHeld
from chain.index.chain_index import ChainIndex, listed_tipsets
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.pool.reports import (
    NULL_ROUND,
    PAGE,
    REPORTS_BUCKET,
    decode_report,
    digest_of,
    done_keys,
    report_key,
    report_pages,
)

#: (epoch, the tasks that are missing there), rising
Gaps = list[tuple[int, tuple[str, ...]]]


class HeadBelowRange(BadRequest):
    """The store's head is below the range that is looked through."""


async def find_gaps(
    store: Store, low: int, high: int, tasks: Sequence[str], *, without_failed_since: int | None = None
) -> Gaps:
    """The gaps of epochs `low` to `high`: tipsets of the head's chain for which a task has neither OK nor INFO.

    A null round is no gap. Nor is an epoch that the store holds no tipset of. `without_failed_since`: what ended as
    SKIP or ERROR at that time (milliseconds since 1970) or later is left out, so that it is not tried over and over.
    Errors: HeadBelowRange, NotHeld (there is no head), StoreError.
    """
    head = await store.head()
    if head is None:
        raise NotHeld("any head: import a snapshot first")
    if high > head.head.height:
        raise HeadBelowRange(f"the head is at epoch {head.head.height}, below the end of the range, {high}")
    chain = _Chain(store, TipsetKey(head.head.key))
    names = [(task.encode(), task) for task in dict.fromkeys(tasks)]
    gaps: Gaps = []
    first = low
    while first <= high:
        last = min(high, first // REPORTS_BUCKET * REPORTS_BUCKET + REPORTS_BUCKET - 1)
        gaps += await _gaps_of_bucket(store, chain, first, last, names, without_failed_since)
        first = last + 1
    return gaps


async def _gaps_of_bucket(
    store: Store, chain: _Chain, low: int, high: int, names: Sequence[tuple[bytes, str]], since: int | None
) -> Gaps:
    """The gaps of epochs of one partition."""
    candidates: dict[int, list[bytes]] = {}
    async for listed in listed_tipsets(store, low, high, PAGE):
        for at, _ in listed:
            # the key of the row ends with the digest of the tipset key's CID
            candidates.setdefault(int.from_bytes(at[:8], "big"), []).append(at[-32:])
    tasks = [name for name, _ in names]
    expected: set[bytes] = set()
    for height, digests in candidates.items():
        digest = digests[0] if len(digests) == 1 else await chain.digest(height)
        if digest is not None:
            expected.update(done_keys(height, digest, tasks))
    null_rounds: set[int] = set()
    #: (epoch, task) where the chain could not be read
    unread: set[tuple[int, bytes]] = set()
    async for page in report_pages(store, low, high):
        keys = [key for key, _ in page]
        expected.difference_update(keys)
        if since is not None:
            failed = [one for key, value in page if key[40] and (one := decode_report(key, value)).ended_ms >= since]
            expected.difference_update(report_key(one.height, one.tipset, one.task, done=True) for one in failed)
            unread.update((one.height, one.task.encode()) for one in failed if one.tipset == NULL_ROUND)
        null_rounds.update(int.from_bytes(key[:8], "big") for key in keys if key[8:41] == NULL_ROUND + b"\0")
    missing: dict[int, set[bytes]] = {}
    for key in expected:
        height = int.from_bytes(key[:8], "big")
        if (height, key[41:]) not in unread:
            missing.setdefault(height, set()).add(key)
    gaps: Gaps = []
    for height in sorted(missing):
        keys_at = missing[height]
        if height in null_rounds and (await chain.digest(height)) not in {key[8:40] for key in keys_at}:
            # the only tipset of that epoch is a fork's
            continue
        lacking = {key[41:] for key in keys_at}
        gaps.append((height, tuple(text for name, text in names if name in lacking)))
    return gaps


class _Chain:
    """The tipsets of one head's chain."""

    def __init__(self, store: Store, head: TipsetKey) -> None:
        self._index = ChainIndex(store, Objects(store))
        self._key = head
        self._head: Tipset | None = None

    async def digest(self, height: int) -> bytes | None:
        """The digest of the chain's tipset at an epoch; None for a null round, and where the chain is not held."""
        if self._head is None:
            self._head = await self._index.tipset(self._key)
        try:
            found = await self._index.at_height(self._head, height)
        except NotHeld:
            return None
        return digest_of(found.key) if found.height == height else None
