"""What a tipset's messages did, as Ethereum clients ask for it: transactions, receipts, events.

All of it is read from the state and receipts *after* a tipset, which the header of any child names. Messages,
receipts and events of a tipset never change, so they are kept decoded, in caches bounded by bytes. Sources:
Lotus `node/impl/eth/utils.go`, `chain/index/events.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from blockstore.cid import RAW, Cid
from blockstore.errors import Missing
from chain.address import Address
from chain.errors import ActorNotFound, BadObject, ChainError, NotHeld
from chain.eth.transaction import EthTx, eth_tx, is_eth, native_tx
from chain.eth.types import REVERTED_ADDRESS, bloom_of, eth_address, hash_of, log_of, own_eth_address
from chain.index.event_index import hash_or_none
from chain.index.event_rows import IndexedEvent
from chain.ipld.dag_cbor import decode
from chain.message import EventEntry, Receipt
from chain.state.state_tree import StateTree
from chain.state.tipset_events import TipsetEvent, events_after, receipts_under
from chain.tipset import Tipset
from chain.tipset_messages import Included
from rpc import eth_json
from rpc.context import Context
from rpc.eth_json import Log, Place
from rpc.lookup.actor_states import node_cache
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.block_parameter import block_hash, canonical
from rpc.lookup.tipset_inclusion import included_in

#: what a decoded receipt or event takes beside its bytes
_OVERHEAD: Final = 600

@dataclass(frozen=True, slots=True)
class Post:
    """What is there after a tipset: the roots of the state and of its messages' receipts."""

    state: Cid
    receipts: Cid


@dataclass(frozen=True, slots=True)
class Executed:
    """A tipset's messages in the order of execution, with their receipts."""

    tipset: Tipset
    post: Post
    messages: Sequence[Included]
    receipts: Sequence[Receipt]

    def place(self, index: int) -> Place:
        """Where a message stands."""
        return Place(block_hash(self.tipset), self.tipset.height, index)


# --- messages and receipts -----------------------------------------------------------------------------


async def post_of(ctx: Context, tipset: Tipset) -> Post | None:
    """What is there after a tipset; None where no child of it is known. At most one row, usually cached."""
    found = await ctx.index.post(tipset.key)
    if found is not None:
        return Post(*found)
    head = (await ctx.head()).tipset
    if tipset.height >= head.height:
        return None
    child = await ctx.index.at_height(head, tipset.height + 1, previous=False)
    if child.parents != tipset.key:
        return None
    return Post(child.parent_state_root, child.parent_message_receipts)


async def receipts_of(ctx: Context, tipset: Tipset, post: Post) -> list[Receipt]:
    """The receipts of a tipset's messages. Errors: NotHeld (a snapshot carries none)."""
    try:
        return await receipts_under(ctx.objects, post.receipts)
    except Missing as error:
        raise NotHeld(f"the receipts of the tipset at epoch {tipset.height}: {error}") from None


async def executed(ctx: Context, tipset: Tipset, post: Post) -> Executed:
    """A tipset's messages and receipts. Errors: NotHeld, BadObject (not as many of one as of the other)."""
    cache = decoded_cache(ctx, "eth_executed")
    kept = cache.get(tipset.key)
    if kept is not None:
        found: Executed = kept[0]
        return found
    messages = await included_in(ctx, tipset)
    receipts = await receipts_of(ctx, tipset, post)
    if len(messages) != len(receipts):
        raise BadObject(f"receipts and message array lengths didn't match for tipset: {tipset.key}")
    found = Executed(tipset, post, messages, receipts)
    keep(cache, tipset.key, found, _OVERHEAD * (len(messages) + 1) + sum(len(one.return_) for one in receipts))
    return found


# --- transactions --------------------------------------------------------------------------------------


async def tree_of(ctx: Context, post: Post) -> StateTree:
    """The actors after a tipset. Errors: Missing, BadObject."""
    return await StateTree.load(ctx.objects, post.state, node_cache(ctx))


async def look_up(tree: StateTree, address: Address) -> bytes:
    """The Ethereum address of an actor: its f410 address, else its masked ID. Errors: ActorNotFound, Missing."""
    own = own_eth_address(address)
    if own is not None:
        return own
    actor_id = await tree.lookup_id(address)
    try:
        actor = await tree.get(actor_id)
    except ActorNotFound:
        # it may have been there once: the ID still names it
        return eth_address(actor_id)
    delegated = None if actor.delegated is None else own_eth_address(actor.delegated)
    return eth_address(actor_id) if delegated is None else delegated


async def transaction_of(ctx: Context, tree: StateTree, one: Included) -> EthTx:
    """A message as a transaction; native ones need the state after it. Errors: ChainError, Missing."""
    chain_id = ctx.network.eth_chain_id
    if one.signed is not None and is_eth(one.signed):
        return eth_tx(one.signed, chain_id)
    message = one.message
    prefix = ctx.network.address_prefix
    try:
        sender = await look_up(tree, Address(message.from_))
    except ActorNotFound as error:
        name = Address(message.from_).text(prefix)
        raise ActorNotFound(
            f"failed to lookup sender address {name} when converting a native message to an eth txn: {error}"
        ) from None
    try:
        to = await look_up(tree, Address(message.to))
    except ActorNotFound:
        to = REVERTED_ADDRESS
    return native_tx(message, hash_of(one.cid), sender, to, chain_id)


async def transactions_of(ctx: Context, found: Executed) -> list[EthTx]:
    """All transactions of a tipset. Errors: as above."""
    if all(is_eth(one.signed) for one in found.messages):
        return [eth_tx(one.signed, ctx.network.eth_chain_id) for one in found.messages if one.signed]
    tree = await tree_of(ctx, found.post)
    return [await transaction_of(ctx, tree, one) for one in found.messages]


# --- events --------------------------------------------------------------------------------------------


async def events_of(ctx: Context, tipset: Tipset, post: Post) -> Sequence[TipsetEvent]:
    """All events of a tipset, numbered through. Round trips: one a level of receipts and of all events together.

    Errors: NotHeld.
    """
    cache = decoded_cache(ctx, "eth_events")
    kept = cache.get(tipset.key)
    if kept is not None:
        return kept[0]  # type: ignore[no-any-return]
    receipts = await receipts_of(ctx, tipset, post)
    try:
        found = await events_after(ctx.objects, receipts, post.state, node_cache(ctx))
    except Missing as error:
        raise NotHeld(f"the events of the tipset at epoch {tipset.height}: {error}") from None
    size = sum(_OVERHEAD + sum(150 + len(entry.value) for entry in event.entries) for event in found)
    keep(cache, tipset.key, found, _OVERHEAD + size)
    return found


async def indexed_events(ctx: Context, tipset: Tipset, post: Post) -> list[IndexedEvent]:
    """All events of a tipset with the messages that caused them, read from it alone. Errors: NotHeld, BadObject."""
    events = await events_of(ctx, tipset, post)
    if not events:
        return []
    found = await executed(ctx, tipset, post)
    chain_id = ctx.network.eth_chain_id
    hashes = {at: hash_or_none(found.messages[at], chain_id) for at in {event.message for event in events}}
    return [IndexedEvent(event, found.messages[event.message].cid, hashes[event.message]) for event in events]


def tipset_bloom(events: Iterable[TipsetEvent]) -> bytes:
    """The bloom filter of a block."""
    items: set[bytes] = set()
    for event in events:
        shown = log_of(event.entries)
        if shown is None:
            continue
        try:
            items.add(eth_address(event.address))
        except ChainError:
            continue
        items.update(shown[1])
    return bloom_of(items)


def raw_entries(event: TipsetEvent) -> tuple[EventEntry, ...]:
    """Those entries that are plain bytes: all that a look-up without topics is shown of an event."""
    return tuple(entry for entry in event.entries if entry.codec == RAW)


def log_from(
    event: TipsetEvent, entries: Sequence[EventEntry], place: Place, tx_hash: bytes, removed: bool
) -> Log | None:
    """The log that an event is shown as, or None. Errors: ChainError (an emitter without an Ethereum address)."""
    shown = log_of(entries)
    if shown is None:
        return None
    return Log(eth_address(event.address), *shown, event.index, place, tx_hash, removed)


async def logs_by_message(ctx: Context, found: Executed, hashes: Mapping[int, bytes]) -> dict[int, list[Log]]:
    """The logs of a tipset by the index of their message, of the messages whose transaction hashes are given.

    Errors: NotHeld.
    """
    if not any(found.receipts[at].events_root for at in hashes):
        return {}
    removed = not await canonical(ctx, found.tipset)
    logs: dict[int, list[Log]] = {}
    for event in await events_of(ctx, found.tipset, found.post):
        digest = hashes.get(event.message)
        entries = () if digest is None else raw_entries(event)
        if digest is None or not entries:
            continue
        one = log_from(event, entries, found.place(event.message), digest, removed)
        if one is not None:
            logs.setdefault(event.message, []).append(one)
    return logs


# --- receipts ------------------------------------------------------------------------------------------


def made_contract(tx: EthTx, receipt: Receipt) -> bytes | None:
    """The address of the contract that a transaction made. Errors: BadObject."""
    if tx.to is not None or receipt.exit_code != 0:
        return None
    try:
        address = decode(receipt.return_)[2]
    except (BadObject, IndexError, TypeError, KeyError) as error:
        raise BadObject(f"failed to parse contract creation result: {error}") from None
    if type(address) is not bytes or len(address) != 20:
        raise BadObject("failed to parse contract creation result: not an address")
    return address


def receipt_json(found: Executed, index: int, tx: EthTx, logs: Sequence[Log]) -> dict[str, Any]:
    """The receipt of one of a tipset's transactions. Errors: BadObject."""
    receipt = found.receipts[index]
    base_fee = found.tipset.blocks[0].parent_base_fee
    return eth_json.receipt(tx, found.place(index), receipt, base_fee, made_contract(tx, receipt), logs)
