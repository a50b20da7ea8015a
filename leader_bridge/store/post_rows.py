"""POST rows: the state and the receipts after a tipset, as a child's header names them.

They are taken only from children on a chain that a node vouches for as its own: of a head change that is about to be
published, or ancestors of the head. A second child that disagrees raises an alarm. The chain that is published is the
one that its node holds for the heaviest, so its child wins; any other child writes a row only where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from blockstore.store import POST, Batch, Store
from chain.errors import BadObject
from chain.index.chain_index import post_row
from chain.tipset import Tipset
from leader_bridge import metrics

log = logging.getLogger(__name__)


async def add_post_rows(store: Store, batch: Batch, children: Sequence[Tipset], *, are_published: bool) -> None:
    """Add the POST rows of the parents of `children` to a batch.

    `are_published`: the children are on the chain of the head that is published, or about to be. Errors: BadObject
    (blocks of one child disagree), StoreError.
    """
    for child in children:
        first = child.blocks[0]
        for block in child.blocks[1:]:
            if (block.parent_state_root, block.parent_message_receipts) != (
                first.parent_state_root,
                first.parent_message_receipts,
            ):
                metrics.POST_CONFLICTS.inc()
                raise BadObject(f"the blocks of {child.key} disagree about the state after their parent")
    before = await store.rows(POST, [(child.parents.cid, b"") for child in children])
    for child, known in zip(children, before, strict=True):
        value = post_row(child)
        if known is not None and known != value:
            metrics.POST_CONFLICTS.inc()
            log.error(
                "two children disagree about the state after tipset %s: the one of epoch %d (%s) %s",
                child.parents,
                child.height,
                child.key,
                "is on the published chain and replaces the other" if are_published else "is not taken",
            )
        if known is None or (known != value and are_published):
            batch.put(POST, child.parents.cid, b"", value)
