"""web3.py reads what the test asks for."""

from __future__ import annotations

import json
import sys
from typing import Any

from web3 import Web3


def plain(value: Any) -> Any:
    """Numbers as decimal strings, the rest in small letters: clients checksum addresses."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return str(value).lower()


ABI = [
    {
        "type": "event",
        "name": "Transfer",
        "anonymous": False,
        "inputs": [
            {"name": "from", "type": "address", "indexed": True},
            {"name": "to", "type": "address", "indexed": True},
            {"name": "value", "type": "uint256", "indexed": False},
        ],
    }
]
_BLOCK = ("hash", "parentHash", "number", "timestamp", "gasLimit", "gasUsed", "baseFeePerGas", "miner")
_TX = ("hash", "nonce", "from", "to", "value", "input")
_RECEIPT = (
    "transactionHash", "blockHash", "blockNumber", "transactionIndex", "from", "to", "contractAddress", "gasUsed",
    "status",
)  # fmt: skip
_LOG = ("address", "topics", "data", "logIndex")


def _some(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in names}


def _transaction(tx: Any) -> dict[str, Any]:
    return {**_some(tx, _TX), "index": tx["transactionIndex"]}


def read(asked: dict[str, Any]) -> dict[str, Any]:
    """The answers, in the form of the other clients."""
    web3 = Web3(Web3.HTTPProvider(asked["http"]))
    address = Web3.to_checksum_address
    blocks = []
    for one in asked["blocks"]:
        found: Any = web3.eth.get_block(one["block"], one["full"])
        listed = found["transactions"]
        blocks.append(
            {**_some(found, _BLOCK), "transactions": [_transaction(tx) for tx in listed] if one["full"] else listed}
        )
    receipts = []
    for digest in asked["receipts"]:
        receipt: Any = web3.eth.get_transaction_receipt(digest)
        receipts.append({**_some(receipt, _RECEIPT), "logs": [_some(log, _LOG) for log in receipt["logs"]]})
    token = web3.eth.contract(address=address(asked["token"]), abi=ABI)
    events = token.events.Transfer.get_logs(
        from_block=asked["transfers"]["fromBlock"], to_block=asked["transfers"]["toBlock"]
    )
    return {
        "chain": web3.eth.chain_id,
        "blocks": blocks,
        "receipts": receipts,
        "transfers": [
            {
                **_some(one, ("transactionHash", "blockNumber", "logIndex")),
                **_some(one["args"], ("from", "to", "value")),
            }
            for one in events
        ],
        "code": [web3.eth.get_code(address(one), block) for one, block in asked["code"]],
        "storage": [
            web3.eth.get_storage_at(address(one), int(slot, 16), block) for one, slot, block in asked["storage"]
        ],
        "balances": [web3.eth.get_balance(address(one), block) for one, block in asked["balances"]],
    }


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(json.dumps(plain(read(json.load(file)))), flush=True)
