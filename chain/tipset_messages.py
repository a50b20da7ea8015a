"""The messages of a block and of a tipset. A tipset has each message once, in the order of execution.

A message that several blocks of a tipset carry belongs to the first of them. Of each sender, only messages whose nonces
follow without a gap belong to the tipset. Source: Lotus `chain/store/messages.go` (`BlockMsgsForTipset`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.block import BlockHeader
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.errors import BadObject, NotHeld
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader
from chain.message import Message, SignedMessage, decode_message, decode_signed_message
from chain.network import NetworkRecord
from chain.tipset import Tipset

#: Resolves (state root, address bytes) to the bytes of the ID address. Errors: ActorNotFound, Missing.
ResolveId = Callable[[Cid, bytes], Awaitable[bytes]]

#: from this network version on, senders are compared by actor ID as soon as one sender is an ID address
_HYPERDRIVE = 13
#: messages that are decoded between two checkpoints
_RUN = 64
#: CIDs that are read from a list of messages between two checkpoints, and messages that are read at once
_CIDS = 256
_READ = 1024


@dataclass(frozen=True, slots=True)
class IncludedMessage:
    """A message on chain. `cid`: of the signed form, for BLS messages of the unsigned form; `signed`: None for BLS."""

    cid: Cid
    message: Message
    signed: SignedMessage | None
    raw: bytes


async def load_message_cids(
    reader: ObjectReader, meta: Cid, checkpoint: Checkpoint = no_checkpoint
) -> tuple[list[Cid], list[Cid]]:
    """(BLS, other) message CIDs of a block. `meta`: the `messages` field of its header. Errors: Missing, BadObject."""
    fields = decode(await reader.get(meta))
    if not isinstance(fields, list) or len(fields) != 2:
        raise BadObject(f"{meta} is not a message-meta")
    found: list[list[Cid]] = []
    for root in fields:
        tree = await Amt.load(reader, Cid(root), version=0)
        cids: list[Cid] = []
        async for part in tree.parts():
            for _, value in part:
                if not len(cids) % _CIDS:
                    await checkpoint()
                cids.append(Cid(value))
        if len(cids) != tree.count:
            raise BadObject(f"found {len(cids)} cids, expected {tree.count}")
        found.append(cids)
    return found[0], found[1]


async def load_block_messages(
    reader: ObjectReader, block: BlockHeader, checkpoint: Checkpoint = no_checkpoint
) -> tuple[list[IncludedMessage], list[IncludedMessage]]:
    """(BLS, other) messages of a block, in its order. Takes two or three round trips to the store.

    Errors: NotHeld (the store lacks one of the objects), BadObject.
    """
    try:
        bls, signed = await load_message_cids(reader, block.messages, checkpoint)
        cids = [*bls, *signed]
        raws: list[bytes] = []
        for at in range(0, len(cids), _READ):
            await checkpoint()
            raws += await reader.get_many(cids[at : at + _READ])
    except Missing as error:
        raise NotHeld(f"the messages of block {block.cid} (epoch {block.height}): {error}") from None
    unsigned = []
    for at, (cid, raw) in enumerate(zip(bls, raws[: len(bls)], strict=True)):
        if not at % _RUN:
            await checkpoint()
        unsigned.append(IncludedMessage(cid, decode_message(raw), None, raw))
    others = []
    for at, (cid, raw) in enumerate(zip(signed, raws[len(bls) :], strict=True)):
        if not at % _RUN:
            await checkpoint()
        value = decode_signed_message(raw)
        others.append(IncludedMessage(cid, value.message, value, raw))
    return unsigned, others


async def load_tipset_block_messages(
    reader: ObjectReader,
    tipset: Tipset,
    network: NetworkRecord,
    resolve_id: ResolveId,
    checkpoint: Checkpoint = no_checkpoint,
) -> list[tuple[list[IncludedMessage], list[IncludedMessage]]]:
    """The (BLS, other) messages that each block adds to its tipset, in block order.

    Errors: NotHeld, BadObject, and those of `resolve_id`, which is asked only where a sender is given by ID.
    """
    # the rule holds from the upgrade's own epoch on, one before its network version does
    resolves = network.version_at(tipset.height + 1) >= _HYPERDRIVE
    selected = _NonceFilter(tipset, resolves, resolve_id)
    return [
        (await selected.select(bls), await selected.select(signed))
        for bls, signed in [await load_block_messages(reader, block, checkpoint) for block in tipset.blocks]
    ]


async def load_tipset_messages(
    reader: ObjectReader,
    tipset: Tipset,
    network: NetworkRecord,
    resolve_id: ResolveId,
    checkpoint: Checkpoint = no_checkpoint,
) -> list[IncludedMessage]:
    """The messages of a tipset, in the order of execution and of its receipts. Errors: NotHeld, BadObject."""
    blocks = await load_tipset_block_messages(reader, tipset, network, resolve_id, checkpoint)
    return [one for bls, signed in blocks for one in (*bls, *signed)]


class _NonceFilter:
    """Selects the messages of a tipset: the next nonce of each sender, each message once."""

    def __init__(self, tipset: Tipset, resolves: bool, resolve_id: ResolveId) -> None:
        self._root = tipset.parent_state_root
        self._resolves = resolves
        self._resolve_id = resolve_id
        self._by_id = False
        self._next: dict[bytes, int] = {}

    async def select(self, messages: Sequence[IncludedMessage]) -> list[IncludedMessage]:
        """Those of `messages` that belong to the tipset and were not selected before."""
        return [one for one in messages if await self._is_next(one.message)]

    async def _is_next(self, message: Message) -> bool:
        sender = message.from_
        if self._resolves:
            if not self._by_id and sender[:1] == b"\0":
                # one sender is an ID address: from here on all senders are compared by ID
                self._by_id = True
                for robust, nonce in list(self._next.items()):
                    self._next[await self._resolve_id(self._root, robust)] = nonce
            if self._by_id:
                sender = await self._resolve_id(self._root, sender)
        if self._next.setdefault(sender, message.nonce) != message.nonce:
            return False
        self._next[sender] += 1
        return True
