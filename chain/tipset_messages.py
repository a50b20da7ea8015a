"""The messages of a block, and those of a tipset: each once, in the order in which they are executed.

Source: Lotus `chain/store/messages.go` (`BlockMsgsForTipset`): a message that several blocks of a tipset
carry counts in the first of them, and of each sender only the messages whose nonces follow on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.block import BlockHeader
from chain.errors import BadObject, NotHeld
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader
from chain.message import Message, SignedMessage, decode_message, decode_signed_message
from chain.network import NetworkRecord
from chain.tipset import Tipset

#: Takes (state root, address bytes) to the bytes of the ID address. Errors: ActorNotFound, Missing.
LookUpId = Callable[[Cid, bytes], Awaitable[bytes]]

#: the network version from which senders are compared as actors where one of them is given by ID
_HYPERDRIVE = 13


@dataclass(frozen=True, slots=True)
class Included:
    """A message on chain. `cid` is what it is known by; `signed` is None for BLS messages."""

    cid: Cid
    message: Message
    signed: SignedMessage | None
    raw: bytes


async def message_cids(reader: ObjectReader, meta: Cid) -> tuple[list[Cid], list[Cid]]:
    """(BLS, other) message CIDs of the message-meta that a header names. Errors: Missing, BadObject."""
    fields = decode(await reader.get(meta))
    if not isinstance(fields, list) or len(fields) != 2:
        raise BadObject(f"{meta} is not a message-meta")
    found: list[list[Cid]] = []
    for root in fields:
        tree = await Amt.load(reader, Cid(root), version=0)
        cids = [Cid(value) async for _, value in tree.items()]
        if len(cids) != tree.count:
            raise BadObject(f"found {len(cids)} cids, expected {tree.count}")
        found.append(cids)
    return found[0], found[1]


async def block_messages(reader: ObjectReader, block: BlockHeader) -> tuple[list[Included], list[Included]]:
    """(BLS, other) messages of a block, in its order: two or three round trips.

    Errors: NotHeld, when the store lacks any of it; BadObject.
    """
    try:
        bls, signed = await message_cids(reader, block.messages)
        raws = await reader.get_many([*bls, *signed])
    except Missing as error:
        raise NotHeld(f"the messages of block {block.cid} (epoch {block.height}): {error}") from None
    unsigned = [Included(cid, decode_message(raw), None, raw) for cid, raw in zip(bls, raws[: len(bls)], strict=True)]
    others = []
    for cid, raw in zip(signed, raws[len(bls) :], strict=True):
        value = decode_signed_message(raw)
        others.append(Included(cid, value.message, value, raw))
    return unsigned, others


async def tipset_block_messages(
    reader: ObjectReader, tipset: Tipset, network: NetworkRecord, look_up_id: LookUpId
) -> list[tuple[list[Included], list[Included]]]:
    """What each block of a tipset adds, (BLS, other) messages, in block order.

    Errors: NotHeld, BadObject, and those of `look_up_id`, which is asked only where a sender is given by ID.
    """
    # the rule holds from the upgrade's own epoch on, one before its network version does
    resolves = network.version_at(tipset.height + 1) >= _HYPERDRIVE
    chosen = _Chosen(tipset, resolves, look_up_id)
    return [
        (await chosen.choose(bls), await chosen.choose(signed))
        for bls, signed in [await block_messages(reader, block) for block in tipset.blocks]
    ]


async def tipset_messages(
    reader: ObjectReader, tipset: Tipset, network: NetworkRecord, look_up_id: LookUpId
) -> list[Included]:
    """The messages of a tipset in the order of execution and of its receipts. Errors: as above."""
    blocks = await tipset_block_messages(reader, tipset, network, look_up_id)
    return [one for bls, signed in blocks for one in (*bls, *signed)]


class _Chosen:
    """The next nonce of each sender that was met."""

    def __init__(self, tipset: Tipset, resolves: bool, look_up_id: LookUpId) -> None:
        self._root = tipset.parent_state_root
        self._resolves = resolves
        self._look_up_id = look_up_id
        self._by_id = False
        self._next: dict[bytes, int] = {}

    async def choose(self, messages: Sequence[Included]) -> list[Included]:
        """Those of `messages` that were not met before."""
        return [one for one in messages if await self._takes(one.message)]

    async def _takes(self, message: Message) -> bool:
        sender = message.from_
        if self._resolves:
            if not self._by_id and sender[:1] == b"\0":
                # one sender is given by ID: from here on all are compared so
                self._by_id = True
                for robust, nonce in list(self._next.items()):
                    self._next[await self._look_up_id(self._root, robust)] = nonce
            if self._by_id:
                sender = await self._look_up_id(self._root, sender)
        if self._next.setdefault(sender, message.nonce) != message.nonce:
            return False
        self._next[sender] += 1
        return True
