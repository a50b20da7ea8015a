"""Opens a store for `follower store`: the one that the settings name, or another one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

from follower.settings import Settings, shared_options

if TYPE_CHECKING:
    from blockstore.store import Store


@contextlib.asynccontextmanager
async def opened_store(
    settings: Settings, url: str | None = None, *, readonly: bool = True, bulk: bool = False
) -> AsyncIterator[Store]:
    """A store while it is in use: that of the settings, or the one that `url` names.

    A store that is not opened `readonly` is made where it does not exist. `bulk`: see `open_store`. Errors: StoreError,
    CannotRun (settings that cannot hold together).
    """
    from blockstore.open import open_store

    shared = replace(shared_options(settings), may_create_tables=not readonly)
    store = await open_store(
        url or settings["store"],
        readonly=readonly,
        map_size=settings["map_size_gb"] << 30,
        bulk=bulk,
        shared=shared,
    )
    try:
        yield store
    finally:
        await store.close()
