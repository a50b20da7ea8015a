"""Blocks and tipsets by CID, key or epoch, with Lotus' errors."""

from __future__ import annotations

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.block import BlockHeader, decode_header
from chain.errors import BadRequest, NotFound
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context


async def read_block(ctx: Context, cid: Cid) -> BlockHeader:
    """A header by its CID. Errors: Missing, BadObject."""
    return decode_header(cid, await ctx.objects.get(cid))


async def read_tipset(ctx: Context, key: TipsetKey) -> Tipset:
    """The tipset with this key; the request's head for the empty key. Errors: NotFound, BadObject."""
    try:
        return await ctx.tipset(key)
    except Missing as error:
        raise _no_block(error) from None


async def load_tipset(ctx: Context, key: TipsetKey) -> Tipset:
    """The tipset with this key; an error for the empty key. Errors: NotFound, BadObject."""
    try:
        return await ctx.index.tipset(key)
    except Missing as error:
        raise _no_block(error) from None


def _no_block(error: Missing) -> NotFound:
    cid = Cid(error.key)
    return NotFound(f"get block {cid}: ipld: could not find {cid}")


async def tipset_at(ctx: Context, epoch: int, anchor: Tipset, previous: bool = True) -> Tipset:
    """The tipset at an epoch among the ancestors of `anchor`; in a null round the one before, or after.

    Errors: BadRequest (negative, above the anchor), NotHeld.
    """
    if epoch < 0:
        raise BadRequest(f"height {epoch} is negative")
    if epoch > anchor.height:
        raise BadRequest(
            f"looking for tipset with height greater than start point, req: {epoch}, head: {anchor.height}"
        )
    return await ctx.index.at_height(anchor, epoch, previous=previous)
