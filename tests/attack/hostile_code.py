"""Calls that cost the virtual machine as much as they can: endless loops, recursion, memory, events, long returns.

The code is init code of a contract that a call would create, so no contract has to be on the chain. Each number makes
another message: a follower keeps answers.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

from chain.ipld.dag_cbor import encode
from tests.attack.wire import call

#: JUMPDEST … PUSH1 0 JUMP
_AGAIN: Final = "600056"


def _loop(body: str) -> str:
    return "5b" + body + _AGAIN


#: runs for as long as there are more than 2 × 10^10 gas: only a limit beyond that makes it endless
ENDLESS_ABOVE_THE_CAP: Final = "5b5a67" + (20_000_000_000).to_bytes(8, "big").hex() + "10600057" + "00"
#: name -> init code, hex
CODE: Final[dict[str, str]] = {
    "empty loop": _loop(""),
    "memory that grows": _loop("595150"),  # MLOAD at MSIZE
    "memory in steps of 16 MiB": _loop("59630100000001" + "5150"),  # MLOAD at MSIZE + 16 MiB
    "memory of 2 GiB": "637fffffff51",
    "hash of 1 MiB": _loop("62100000600020" + "50"),
    "empty events": _loop("60006000a0"),
    "events of four topics and 4 KiB": _loop("5a5a5a5a6110006000a4"),
    "20,000 empty events, and an end": "62004e205b60006000a0600190038060045700",
    "writes": _loop("5a5a55"),  # SSTORE of GAS at GAS
    "balances": _loop("5a3150"),
    "block hashes": _loop("60ff5a0660010143034050"),  # BLOCKHASH of NUMBER - (1 + GAS % 255)
    "contracts in contracts": "386000600039" + "3860006000f0" + "00",  # CREATE of itself
    "contracts beside contracts": _loop("386000600039" + "3860006000f050"),
    "modexp": "610400600052610400602052610400604052" + "5b" + "6000600061" + "0c60" + "600060055afa50" + "601256",
    "code of 24 KiB": "6160006000f3",
    "revert of 1 MiB": "620fffff6000fd",
    "return of 64 MiB": "63040000006000f3",
    "endless with Lotus' limit": ENDLESS_ABOVE_THE_CAP,
}


def numbered(code: str, number: int) -> str:
    """The code with a tail that is never run."""
    return code + "00" + number.to_bytes(8, "big").hex()


def eth_request(method: str, code: str) -> bytes:
    """A request about the creation of a contract."""
    return call(method, {"data": "0x" + code}, "latest")


def creation(sender: str, code: str, nonce: int, gas: int) -> dict[str, Any]:
    """A message that creates a contract, as JSON."""
    params = base64.b64encode(encode(bytes.fromhex(code))).decode()
    return {
        "Version": 0, "To": "f010", "From": sender, "Nonce": nonce, "Value": "0", "GasLimit": gas, "GasFeeCap": "0",
        "GasPremium": "0", "Method": 4, "Params": params,
    }  # fmt: skip


def hostile_calls(sender: str, height: int) -> Callable[[int], bytes]:
    """The request of a number: another method and another code each time. `sender`: an account on the chain."""
    codes = list(CODE.values())

    def request(number: int) -> bytes:
        code = numbered(codes[number % len(codes)], number)
        kind = number // len(codes) % 5
        if kind == 2:
            return eth_request("eth_estimateGas", code)
        if kind == 3:
            return call("Filecoin.StateCall", creation(sender, code, 0, 0), [])
        if kind == 4:
            some = [creation(sender, code, nonce, 1 << 61) for nonce in range(50)]
            return call("Filecoin.StateCompute", height, some, [])
        return eth_request("eth_call", code)

    return request


def endless_calls(sender: str) -> Callable[[int], bytes]:
    """`StateCall` of code that ends within any bounded gas, and does not end with Lotus' limit for such calls."""

    def request(number: int) -> bytes:
        return call("Filecoin.StateCall", creation(sender, numbered(ENDLESS_ABOVE_THE_CAP, number), 0, 0), [])

    return request
