"""Event search with Lotus' limit on results: by range of epochs, or in given tipsets.

Source: Lotus `chain/index/events.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from blockstore.cid import Cid
from chain.consensus.ancestry import Ancestor
from chain.errors import NotFound
from chain.eth.types import cid_of_hash
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError, limit_data
from rpc.json_wire import ArrayBuilder, JsonText
from rpc.lookup.eth.block_parameter import select_hash
from rpc.lookup.events.criteria import EventCriteria, Hit
from rpc.lookup.events.event_search import event_search

#: the most results from more than one tipset, Lotus' default
MAX_EVENTS: Final = 10_000
#: events that are written as JSON between two checkpoints
_RUN: Final = 64
_TOO_MANY: Final = "filter matches too many events, try a more restricted filter"


async def collect_hits(hits: AsyncIterator[list[Hit]]) -> list[Hit]:
    """All that a search finds. Errors: MethodError (over 10,000 from more than one tipset), NotHeld."""
    found: list[Hit] = []
    tipsets = 0
    async for some in hits:
        found += some
        tipsets += 1
        if tipsets > 1 and len(found) > MAX_EVENTS:
            raise MethodError(f"failed to get events: {_TOO_MANY}", limit_data("events", MAX_EVENTS))
    return found


async def find_range(ctx: Context, low: int, high: int, wanted: EventCriteria) -> list[Hit]:
    """What a filter finds from epoch `low` to `high` of the head's chain, below the head. Errors: as `collect_hits`.

    The caller notes what of the chain that depends on.
    """
    head = (await ctx.pin_head()).tipset
    return await collect_hits(event_search(ctx).search_epochs(ctx, low, min(high, head.height - 1), wanted))


async def find_in(ctx: Context, tipsets: Sequence[Tipset], wanted: EventCriteria) -> list[Hit]:
    """What a filter finds in these tipsets (rising), on whatever fork. Errors: as `collect_hits`."""
    return await collect_hits(
        event_search(ctx).search_tipsets(ctx, [Ancestor.of(tipset) for tipset in tipsets], wanted)
    )


async def take_hits(ctx: Context, hits: list[Hit]) -> AsyncIterator[list[Hit]]:
    """The hits, some at a time, with a checkpoint before each; `hits` is empty afterwards.

    To free 30,000 of them at once would keep the event loop for 30 ms.
    """
    hits.reverse()
    while hits:
        await ctx.checkpoint()
        some = hits[-_RUN:]
        del hits[-_RUN:]
        some.reverse()
        yield some


async def logs_json(ctx: Context, hits: list[Hit], removed: bool = False) -> JsonText:
    """Events as logs; those that no contract emits in this form are left out. Takes the hits (`take_hits`).

    Errors: NotEthTx, EthAddressError.
    """
    logs = ArrayBuilder()
    async for some in take_hits(ctx, hits):
        logs.add([log for hit in some if (log := hit.log(removed)) is not None])
    return logs.text()


def tipset_not_found(cid: Cid) -> NotFound:
    """What an index says of a tipset key that it does not know."""
    return NotFound(f"failed to get tipset by cid: cannot find tipset with cid {cid}: ipld: could not find {cid}")


async def tipset_by_hash(ctx: Context, digest: bytes) -> Tipset:
    """The tipset whose events are asked for. Errors: NotFound, NotHeld."""
    try:
        return await select_hash(ctx, digest)
    except NotFound:
        raise tipset_not_found(cid_of_hash(digest)) from None
