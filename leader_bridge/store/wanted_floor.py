"""Down to which epoch the backfill goes because followers were asked of it, and how far at once."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from blockstore.errors import StoreError
from blockstore.store import Store
from chain.index.kept import MESSAGES, Kept
from chain.index.wanted_epochs import forget_wanted_epoch, load_wanted_epoch
from leader_bridge.settings import BridgeSettings

log = logging.getLogger(__name__)

#: epochs that are fetched between two looks at the row, the policy and the disk
STEP: Final = 720
_LOOK_SECONDS: Final = 2.0


class WantedFloor:
    """Reads the followers' row. `fill_epochs`: the most epochs below the head; `free_bytes`: of disk, left at least."""

    def __init__(
        self, store: Store, *, fill_epochs: int, free_bytes: int = 0, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._store = store
        self._fill_epochs = fill_epochs
        self._free_bytes = free_bytes
        self._look_seconds = look_seconds
        #: the epoch that was looked at last
        self._seen: int | None = None

    async def find(self, bottom: int, head: int, kept: Kept) -> int | None:
        """The epoch to go down to in the next step, where the store's lowest one is `bottom`; None: nowhere.

        The row is removed when there is nothing left to fetch for it. Errors: StoreError.
        """
        wanted = self._seen = await load_wanted_epoch(self._store)
        if wanted is None:
            return None
        policy = kept.policy.get(MESSAGES)
        lowest = max(0, head - self._fill_epochs, kept.messages, 0 if policy is None else head - policy)
        floor = max(wanted, lowest)
        if bottom <= floor:
            await forget_wanted_epoch(self._store, wanted)
            self._seen = None
            return None
        if not self._has_room():
            log.warning("epochs down to %d are not fetched: less than read_through_free_gb is free", floor)
            return None
        return max(floor, bottom - STEP)

    async def give_up(self, floor: int) -> None:
        """No node holds what is wanted down to `floor`. The row goes: who asks again wants it again."""
        log.info("no node holds the epochs down to %d that followers were asked of", floor)
        if self._seen is not None:
            await forget_wanted_epoch(self._store, self._seen)
            self._seen = None

    def _has_room(self) -> bool:
        """Whether the disk has room; of a shared store's disks nothing is known here."""
        if not self._store.url.startswith("lmdb://"):
            return True
        folder = Path(self._store.url.removeprefix("lmdb://").partition("?")[0])
        return shutil.disk_usage(folder).free >= self._free_bytes

    async def changed(self) -> None:
        """Return when a lower epoch is wanted than was looked at last."""
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                wanted = await load_wanted_epoch(self._store)
            except StoreError as error:
                log.debug("the epochs that are wanted: %s", error)
                continue
            if wanted is not None and (self._seen is None or wanted < self._seen):
                return


def wanted_floor(store: Store, settings: BridgeSettings) -> WantedFloor | None:
    """What a bridge with these settings fetches because followers were asked of it; None: nothing."""
    if not settings.read_through_fill_epochs:
        return None
    return WantedFloor(
        store,
        fill_epochs=settings.read_through_fill_epochs,
        free_bytes=settings.read_through_free_bytes,
        look_seconds=settings.read_through_look_seconds,
    )
