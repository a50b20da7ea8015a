"""Blocks, transactions, receipts and logs in the JSON that Lotus gives to Ethereum clients.

Numbers are 0x-hex without leading zeros, bytes 0x-hex; keys stand in the order of Go's struct fields. Source:
Lotus `chain/types/ethtypes/eth_types.go`, `eth_transactions.go`, `node/impl/eth/utils.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chain.eth.transaction import EthTx, effective_gas_price
from chain.eth.types import ADDRESS_LENGTH, NO_HASH, bloom_of
from chain.message import Receipt
from chain.tipset import Tipset

BLOCK_GAS_LIMIT: Final = 10_000_000_000

_ZERO: Final = "0x0"
_EMPTY: Final = "0x"
_NO_HASH: Final = "0x" + NO_HASH.hex()
_NOBODY: Final = "0x" + "00" * ADDRESS_LENGTH
#: keccak of the RLP of an empty list: no uncles; of an empty string: no transactions
_NO_UNCLES: Final = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"
_EMPTY_ROOT: Final = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"


def data(value: bytes) -> str:
    """Bytes as 0x-hex."""
    return "0x" + value.hex()


def optional(value: bytes | None) -> str | None:
    """Bytes as 0x-hex, or null."""
    return None if value is None else "0x" + value.hex()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a transaction stands: its block's hash and epoch, its index there."""

    block_hash: bytes
    height: int
    index: int


def block(
    tipset: Tipset, transactions: Sequence[Any], gas_used: int, bloom: bytes, parent_hash: bytes, block_hash: bytes
) -> dict[str, Any]:
    """A tipset as a block; `transactions` are objects or hashes."""
    first = tipset.blocks[0]
    return {
        "hash": data(block_hash),
        "parentHash": data(parent_hash),
        "sha3Uncles": _NO_UNCLES,
        "miner": _NOBODY,
        "stateRoot": _NO_HASH,
        "transactionsRoot": _NO_HASH if transactions else _EMPTY_ROOT,
        "receiptsRoot": _NO_HASH,
        "logsBloom": data(bloom),
        "difficulty": _ZERO,
        "totalDifficulty": _ZERO,
        "number": hex(tipset.height),
        "gasLimit": hex(BLOCK_GAS_LIMIT * len(tipset.blocks)),
        "gasUsed": hex(gas_used),
        "timestamp": hex(first.timestamp),
        "extraData": _EMPTY,
        "mixHash": _NO_HASH,
        "nonce": "0x" + "00" * 8,
        "baseFeePerGas": hex(first.parent_base_fee),
        "size": _ZERO,
        "transactions": list(transactions),
        "uncles": [],
    }


def transaction(tx: EthTx, place: Place) -> dict[str, Any]:
    """A transaction that is in a block."""
    shown: dict[str, Any] = {
        "chainId": hex(tx.chain_id),
        "nonce": hex(tx.nonce),
        "hash": data(tx.hash),
        "blockHash": data(place.block_hash),
        "blockNumber": hex(place.height),
        "transactionIndex": hex(place.index),
        "from": data(tx.sender),
        "to": optional(tx.to),
        "value": hex(tx.value),
        "type": hex(tx.kind),
        "input": data(tx.input),
        "gas": hex(tx.gas),
    }
    if tx.max_fee is not None:
        shown["maxFeePerGas"] = hex(tx.max_fee)
    if tx.max_priority_fee is not None:
        shown["maxPriorityFeePerGas"] = hex(tx.max_priority_fee)
    if tx.gas_price is not None:
        shown["gasPrice"] = hex(tx.gas_price)
    return {
        **shown,
        "accessList": [] if tx.native else None,
        "v": hex(tx.v),
        "r": hex(tx.r),
        "s": hex(tx.s),
    }


@dataclass(frozen=True, slots=True)
class Log:
    """One log. `index` counts the events of the whole tipset; `address` is the emitter's."""

    address: bytes
    data: bytes
    topics: Sequence[bytes]
    index: int
    place: Place
    tx_hash: bytes
    removed: bool = False


def log(value: Log) -> dict[str, Any]:
    """A log."""
    return {
        "address": data(value.address),
        "data": data(value.data),
        "topics": [data(topic) for topic in value.topics],
        "removed": value.removed,
        "logIndex": hex(value.index),
        "transactionIndex": hex(value.place.index),
        "transactionHash": data(value.tx_hash),
        "blockHash": data(value.place.block_hash),
        "blockNumber": hex(value.place.height),
    }


def logs_bloom(logs: Iterable[Log]) -> bytes:
    """The bloom filter of a transaction's logs."""
    return bloom_of(item for one in logs for item in (one.address, *one.topics))


def receipt(
    tx: EthTx, place: Place, value: Receipt, base_fee: int, contract: bytes | None, logs: Sequence[Log]
) -> dict[str, Any]:
    """The receipt of a transaction; `base_fee` is its block's, `contract` the address of one that it made."""
    return {
        "transactionHash": data(tx.hash),
        "transactionIndex": hex(place.index),
        "blockHash": data(place.block_hash),
        "blockNumber": hex(place.height),
        "from": data(tx.sender),
        "to": optional(tx.to),
        "root": _NO_HASH,
        "status": hex(int(value.exit_code == 0)),
        "contractAddress": optional(contract),
        "cumulativeGasUsed": _ZERO,
        "gasUsed": hex(value.gas_used),
        "effectiveGasPrice": hex(effective_gas_price(tx, value.gas_used, base_fee)),
        "logsBloom": data(logs_bloom(logs)),
        "logs": [log(one) for one in logs],
        "type": hex(tx.kind),
    }
