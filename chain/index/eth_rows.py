"""Rows by which Ethereum clients' questions find messages: transaction hash to message CID.

A row says nothing of a fork: whether the message is on a chain is told by its MESSAGES rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blockstore.cid import Cid
from blockstore.store import ETH_TXS, Batch
from chain.errors import BadObject
from chain.eth.transaction import NotEthTx, eth_tx, is_eth
from chain.eth.types import EthAddressError
from chain.ipld.objects import ObjectReader
from chain.message import decode_signed_message

#: what COVERAGE calls the epochs whose Ethereum transactions all have ETH_TXS rows
ETH_TXS_INDEX: Final = b"eth_txs"


async def index_eth_txs(batch: Batch, reader: ObjectReader, messages: Iterable[Cid], chain_id: int) -> int:
    """Add the ETH_TXS rows of those messages that were signed as Ethereum transactions to `batch`; how many.

    `messages` are CIDs of signed messages (of secp256k1 and delegated keys). One round trip for all of them. A
    signature that no transaction can have gives no row: the node answers no look-up of such a message either.
    Errors: Missing.
    """
    signed = list(dict.fromkeys(messages))
    found = 0
    for cid, raw in zip(signed, await reader.get_many(signed) if signed else (), strict=True):
        try:
            value = decode_signed_message(raw)
            if not is_eth(value):
                continue
            digest = eth_tx(value, chain_id).hash
        except (BadObject, NotEthTx, EthAddressError):
            continue
        batch.put(ETH_TXS, digest, b"", bytes(cid))
        found += 1
    return found
