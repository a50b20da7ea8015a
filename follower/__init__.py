"""The serving process: its view of the head, caches, routes to full nodes; the command line and its settings.

Imports `rpc`, `chain` and `blockstore`; only the command line, `follower.commands`, composes it with `leader_bridge`
and `devnode`. Methods of the API belong into `rpc.methods`.

Other programs use `follower.open` (docs/python.md) and `follower.TipsetHook` (docs/extending.md).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from follower.extending.chain import Chain
    from follower.extending.hook import TipsetChange, TipsetHook

__all__ = ["TipsetChange", "TipsetHook", "open"]


def open(url: str, *, cache_bytes: int = 64 << 20) -> AbstractAsyncContextManager[Chain]:
    """Open a store for reading: `async with follower.open("lmdb:///var/lib/follower") as chain:`.

    `cache_bytes`: memory for objects. A bridge may write to the store meanwhile. Errors, when the block is entered:
    StoreError (a URL of no known kind), StoreUnavailable (no store there, or it names no network yet), SchemaMismatch,
    Unfinished (an import has not ended).
    """
    # imported here: the command line imports this package for every subcommand
    from follower.extending.chain import open_chain

    return open_chain(url, cache_bytes=cache_bytes)


def __getattr__(name: str) -> Any:
    if name in ("TipsetChange", "TipsetHook"):
        from follower.extending import hook

        return getattr(hook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
