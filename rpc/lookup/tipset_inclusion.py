"""The decoded messages of a tipset in the order of execution, cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage, load_tipset_messages
from rpc.context import Context
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.senders import id_of

#: bytes of memory that a decoded message takes besides its content
_OVERHEAD: Final = 600


async def included_in(ctx: Context, tipset: Tipset) -> Sequence[IncludedMessage]:
    """The messages of a tipset in the order of execution. Errors: NotHeld, BadObject."""
    cache = decoded_cache(ctx, "included")
    kept = cache.get(tipset.key)
    if kept is not None:
        found: Sequence[IncludedMessage] = kept[0]
        return found
    found = await load_tipset_messages(ctx.objects, tipset, ctx.network, id_of(ctx), ctx.checkpoint)
    keep(cache, tipset.key, found, _OVERHEAD * (len(found) + 1) + sum(2 * len(one.raw) for one in found))
    return found
