"""Messages as Ethereum transactions, and their receipts.

Sources: Lotus `node/impl/eth/utils.go`, `chain/index/events.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.store import ETH_TXS
from chain.address import Address
from chain.errors import ActorNotFound, BadObject
from chain.eth.transaction import EthTx, eth_tx, is_eth, native_tx
from chain.eth.types import REVERTED_ADDRESS, cid_of_hash, eth_address, hash_of, own_eth_address
from chain.ipld.dag_cbor import decode
from chain.message import Message, Receipt
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage
from rpc import eth_json
from rpc.context import Context
from rpc.eth_json import Log
from rpc.lookup.actor_states import load_tree
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.executed_tipset import Executed, PostRoots
from rpc.lookup.message_search import is_place_known, load_message

#: the cache of the CIDs of transactions' messages
_MESSAGE_OF: Final = "message_of_transaction"
#: the cache of transactions that were signed as such, by the CIDs of their messages
_SIGNED: Final = "signed_transactions"
#: bytes of memory that a transaction takes besides its input
_TX_BYTES: Final = 1000
#: bytes of memory that a cached row takes
_ROW_BYTES: Final = 400


async def load_tree_after(ctx: Context, tipset: Tipset, post: PostRoots) -> StateTree:
    """The actors after a tipset. Errors: Missing, BadObject."""
    return await load_tree(ctx, post.state, tipset.height + 1)


async def resolve_eth_address(tree: StateTree, address: Address) -> bytes:
    """The Ethereum address of an actor: its f410 address, else its masked ID. Errors: ActorNotFound, Missing."""
    own = own_eth_address(address)
    if own is not None:
        return own
    actor_id = await tree.lookup_id(address)
    try:
        actor = await tree.get(actor_id, is_asked=False)
    except ActorNotFound:
        # it may have been there once: the ID still names it
        return eth_address(actor_id)
    delegated = None if actor.delegated is None else own_eth_address(actor.delegated)
    return eth_address(actor_id) if delegated is None else delegated


def signed_tx(ctx: Context, one: IncludedMessage) -> EthTx | None:
    """The transaction that a message was made from, cached; None for a native message.

    Errors: NotEthTx, EthAddressError.
    """
    if one.signed is None or not is_eth(one.signed):
        return None
    cache = decoded_cache(ctx, _SIGNED)
    kept = cache.get(one.cid)
    if kept is not None:
        found: EthTx = kept[0]
        return found
    found = eth_tx(one.signed, ctx.network.eth_chain_id)
    keep(cache, one.cid, found, _TX_BYTES + 2 * len(found.input))
    return found


def tx_hash(ctx: Context, one: IncludedMessage) -> bytes:
    """The hash by which Ethereum clients know a message. Errors: NotEthTx, EthAddressError, NotEthHash."""
    signed = signed_tx(ctx, one)
    return hash_of(one.cid) if signed is None else signed.hash


async def tx_hashes(ctx: Context, messages: Sequence[IncludedMessage]) -> list[str]:
    """The hashes of many, as JSON has them. Errors: as `tx_hash`."""
    hashes: list[str] = []
    for one in messages:
        await ctx.checkpoint()
        hashes.append(eth_json.data(tx_hash(ctx, one)))
    return hashes


async def to_transaction(ctx: Context, tree: StateTree, one: IncludedMessage) -> EthTx:
    """A message as a transaction; native ones need the state after it.

    Errors: NotEthTx, EthAddressError, NotEthHash, ActorNotFound (the sender), Missing.
    """
    signed = signed_tx(ctx, one)
    if signed is not None:
        return signed
    message = one.message
    prefix = ctx.network.address_prefix
    try:
        sender = await resolve_eth_address(tree, Address(message.from_))
    except ActorNotFound as error:
        name = Address(message.from_).text(prefix)
        raise ActorNotFound(
            f"failed to lookup sender address {name} when converting a native message to an eth txn: {error}"
        ) from None
    try:
        to = await resolve_eth_address(tree, Address(message.to))
    except ActorNotFound:
        to = REVERTED_ADDRESS
    return native_tx(message, hash_of(one.cid), sender, to, ctx.network.eth_chain_id)


async def to_transactions(ctx: Context, found: Executed) -> list[EthTx]:
    """All transactions of a tipset. Errors: as `to_transaction`."""
    tree: StateTree | None = None
    transactions: list[EthTx] = []
    for one in found.messages:
        await ctx.checkpoint()
        signed = signed_tx(ctx, one)
        if signed is not None:
            transactions.append(signed)
            continue
        if tree is None:
            tree = await load_tree_after(ctx, found.tipset, found.post)
        transactions.append(await to_transaction(ctx, tree, one))
    return transactions


def created_contract(tx: EthTx, receipt: Receipt) -> bytes | None:
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
    return eth_json.receipt(tx, found.place(index), receipt, base_fee, created_contract(tx, receipt), logs)


async def find_message_cid(ctx: Context, digest: bytes) -> Cid:
    """The CID of the message that a transaction hash is of, if there is one. One row, the first time it is found."""
    cache = decoded_cache(ctx, _MESSAGE_OF)
    kept = cache.get(digest)
    if kept is not None:
        found: Cid = kept[0]
        return found
    # messages that were not signed as transactions have no row: their hash is that of their CID
    native = cid_of_hash(digest)
    if is_place_known(ctx, native):
        return native
    row = await ctx.store.row(ETH_TXS, digest, b"")
    if row is None:
        return native
    found = Cid(row)
    keep(cache, digest, found, _ROW_BYTES)
    return found


async def find_message(ctx: Context, digest: bytes) -> tuple[Cid, Message]:
    """The message that a transaction hash is of, and its CID. Errors: NotFound, NotAMessage.

    Of a hash that this process has not met, all is read at once: wallets ask for a transaction's receipt again and
    again until it is on chain, and until then the row, the object and the tipset of this digest are all absent.
    """
    native = cid_of_hash(digest)
    is_met = digest in decoded_cache(ctx, _MESSAGE_OF) or is_place_known(ctx, native)
    # in lazy mode a full node would be asked for the object
    if is_met or ctx.objects.is_lazy:
        cid = await find_message_cid(ctx, digest)
        return cid, await load_message(ctx, cid)
    found, message = await asyncio.gather(
        find_message_cid(ctx, digest), load_message(ctx, native, at_once=True), return_exceptions=True
    )
    if isinstance(found, BaseException):
        raise found
    if found != native:
        return found, await load_message(ctx, found)
    if isinstance(message, BaseException):
        raise message
    return native, message
