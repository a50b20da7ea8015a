"""What head changes left alone: the epoch up to which the chain of a later head is that of an earlier one."""

from __future__ import annotations

from typing import Final

from blockstore.errors import StoreError
from blockstore.store import HeadEntry
from chain.errors import ChainError
from chain.tipset import TipsetKey
from rpc.context import NOTHING, WHOLE_HEAD
from rpc.services import Head, Services

#: head changes that are looked through between two heads, at most
MAX_CHANGES: Final = 64


async def common_epoch(services: Services, old: Head, new: Head) -> int:
    """The height of the newest tipset that both heads have in their chains; `NOTHING` where that is not known.

    `WHOLE_HEAD` where `new` only adds to `old`. Every step is checked against the keys of the tipsets' parents.
    """
    try:
        entries = await _entries_between(services, old, new)
        common = WHOLE_HEAD
        last = old.tipset
        for entry in entries:
            base = last
            for reverted in entry.reverts:
                if reverted.key != base.key:
                    return NOTHING
                base = await services.index.parent(base)
                common = min(common, base.height)
            for applied in entry.applies:
                tipset = await services.index.tipset(TipsetKey(applied.key))
                if tipset.parents != base.key:
                    return NOTHING
                base = tipset
            last = base
    except (StoreError, ChainError):
        return NOTHING
    return common if entries and last.key == new.tipset.key else NOTHING


async def _entries_between(services: Services, old: Head, new: Head) -> list[HeadEntry]:
    """The log's entries from the one after `old` to that of `new`; none where they are too many or lack one."""
    if new.entry is None or not 0 < new.seq - old.seq <= MAX_CHANGES:
        return []
    if new.seq == old.seq + 1:
        return [new.entry]
    found = await services.store.head_entries(old.seq, new.seq - old.seq)
    return found if [entry.seq for entry in found] == list(range(old.seq + 1, new.seq + 1)) else []
