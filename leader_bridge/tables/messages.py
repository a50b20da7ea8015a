"""Tables of messages: each once, and which block carries which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row, Task, signed, table

_PART: Final = 512


async def _messages(view: TipsetView) -> AsyncIterator[list[Row]]:
    address = view.source.address
    seen: set[bytes] = set()
    for bls, others in await view.block_messages():
        rows: list[Row] = []
        for one in (*bls, *others):
            if one.cid in seen:
                continue
            seen.add(one.cid)
            message = one.message
            rows.append(
                (
                    view.height,
                    str(one.cid),
                    address(message.from_),
                    address(message.to),
                    len(one.raw),
                    message.nonce,
                    message.value,
                    message.gas_fee_cap,
                    message.gas_premium,
                    message.gas_limit,
                    signed(message.method),
                )
            )
        for at in range(0, len(rows), _PART):
            yield rows[at : at + _PART]


MESSAGES: Final = Task(
    "messages",
    table(
        "messages",
        "Messages of the blocks of a tipset, each once.",
        key="height cid",
        columns="""
height       bigint  Epoch of the blocks that carry the message.
cid          text    CID of the message.
from         text    Address of the sender, as the message has it.
to           text    Address of the receiver, as the message has it.
size_bytes   bigint  Size of the message on chain.
nonce        bigint  Number of the message of its sender.
value        numeric attoFIL that are sent.
gas_fee_cap  wide    The most that the sender pays, attoFIL for a unit of gas.
gas_premium  wide    What the miner is offered, attoFIL for a unit of gas.
gas_limit    bigint  The most gas that the message may use.
method       bigint? Number of the method; 0: a plain transfer; from 2^63 on less 2^64.
""",
    ),
    _messages,
)


async def _block_messages(view: TipsetView) -> AsyncIterator[list[Row]]:
    for block, (bls, others) in zip(view.tipset.blocks, await view.block_messages(), strict=True):
        rows: list[Row] = [(view.height, str(block.cid), str(one.cid)) for one in (*bls, *others)]
        for at in range(0, len(rows), _PART):
            yield rows[at : at + _PART]


BLOCK_MESSAGES: Final = Task(
    "block_messages",
    table(
        "block_messages",
        "Which block carries which message.",
        key="height block message",
        columns="""
height   bigint  Epoch of the block.
block    text    CID of the block.
message  text    CID of the message.
""",
    ),
    _block_messages,
)
