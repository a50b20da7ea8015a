"""Tables of blocks: headers, and which block has which parents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row, Task, signed, table


async def _headers(view: TipsetView) -> AsyncIterator[list[Row]]:
    yield [
        (
            block.height,
            str(block.cid),
            view.source.address(block.miner),
            str(block.parent_weight),
            str(block.parent_base_fee),
            str(block.parent_state_root),
            block.election_proof[0] if block.election_proof else 0,
            block.timestamp,
            signed(block.fork_signaling),
        )
        for block in view.tipset.blocks
    ]


BLOCK_HEADERS: Final = Task(
    "block_headers",
    table(
        "block_headers",
        "Blocks of the chain.",
        key="height cid",
        columns="""
height             bigint  Epoch of the block.
cid                text    CID of the block.
miner              text    ID address of the miner.
parent_weight      text    Weight of the chain below the block.
parent_base_fee    text    Base fee, attoFIL for a unit of gas.
parent_state_root  text    CID of the state before the block's messages.
win_count          bigint? Times that the miner won in this epoch.
timestamp          bigint  Seconds since 1970.
fork_signaling     bigint  What the miner set; from 2^63 on less 2^64.
""",
    ),
    _headers,
)


async def _parents(view: TipsetView) -> AsyncIterator[list[Row]]:
    yield [(block.height, str(block.cid), str(parent)) for block in view.tipset.blocks for parent in block.parents]


BLOCK_PARENTS: Final = Task(
    "block_parents",
    table(
        "block_parents",
        "Which blocks a block builds on.",
        key="height block parent",
        columns="""
height  bigint  Epoch of the block.
block   text    CID of the block.
parent  text    CID of one of its parents.
""",
    ),
    _parents,
)
