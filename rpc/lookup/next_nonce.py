"""The nonce of an account's next message, as far as it can be told without a mempool."""

from __future__ import annotations

from typing import Final

from chain.address import Address
from chain.errors import NotHeld
from rpc.context import Context
from rpc.lookup.actor_states import load_tree
from rpc.lookup.eth.executed_tipset import find_post_roots

#: the header that says so
NOTE: Final = "X-Filecoin-Note"
_NO_MEMPOOL: Final = "no mempool here: pending messages are not counted"


async def next_nonce(ctx: Context, address: Address) -> int:
    """The nonce after the head's messages. Errors: NotHeld (the head is not executed here), ActorNotFound."""
    head = (await ctx.head()).tipset
    post = await find_post_roots(ctx, head)
    if post is None:
        raise NotHeld(f"the state after the head, epoch {head.height}")
    ctx.add_header(NOTE, _NO_MEMPOOL)
    tree = await load_tree(ctx, post.state, head.height + 1)
    return (await tree.find(address, ctx.network.address_prefix)).nonce
