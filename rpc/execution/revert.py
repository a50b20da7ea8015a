"""What a failed execution says: revert reasons, and the error that clients get.

Source: Lotus `api/api_errors.go`, `chain/types/ethtypes/eth_types.go`.
"""

from __future__ import annotations

from typing import Final

from chain.errors import BadObject
from chain.exit_codes import exit_code_text
from chain.ipld.dag_cbor import decode
from rpc.errors import ExecutionReverted
from rpc.executor import Applied, Outcome

SENDER_INVALID: Final = 1
OUT_OF_GAS: Final = 7
_ERROR: Final = bytes.fromhex("08c379a0")
_PANIC: Final = bytes.fromhex("4e487b71")
_PANICS: Final = {
    0x00: "Panic()",
    0x01: "Assert()",
    0x11: "ArithmeticOverflow()",
    0x12: "DivideByZero()",
    0x21: "InvalidEnumVariant()",
    0x22: "InvalidStorageArray()",
    0x31: "PopEmptyArray()",
    0x32: "ArrayIndexOutOfBounds()",
    0x41: "OutOfMemory()",
    0x51: "CalledUninitializedFunction()",
}
#: the same in the words of go-ethereum's `accounts/abi/abi.go`
_GETH_PANICS: Final = {
    0x00: "generic panic",
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum overflow",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "out-of-bounds access of an array or bytesN",
    0x41: "out of memory",
    0x51: "uninitialized function",
}
_WORD: Final = 32
_MAX_UINT64: Final = (1 << 64) - 1


def failure_text(applied: Applied | Outcome) -> str:
    """The error of a result as Lotus writes it; empty for a success."""
    if not applied.exit_code:
        return ""
    return f"{applied.failure or 'unknown error'} (RetCode={applied.exit_code})"


def revert_reason(data: bytes) -> str:
    """What bytes that a contract reverted with say: `Error(…)`, a panic's name, or the bytes in hex."""
    if len(data) >= 4 + _WORD:
        if data[:4] == _PANIC:
            code = int.from_bytes(data[4 : 4 + _WORD], "big")
            return _PANICS.get(code, f"Panic({code:#x})")
        if data[:4] == _ERROR:
            text = _error_text(data[4:])
            if text is not None:
                return f"Error({text.decode(errors='replace')})"
    return "0x" + data.hex()


def geth_reason(data: bytes) -> str | None:
    """What geth calls the revert reason: the text of `Error(string)`, a panic's meaning; None for other bytes."""
    if data[:4] == _PANIC and len(data) == 4 + _WORD:
        code = int.from_bytes(data[4:], "big")
        return _GETH_PANICS.get(code, f"unknown panic code: {code:#x}")
    text = _error_text(data[4:]) if data[:4] == _ERROR and len(data) >= 4 + _WORD else None
    return None if text is None else text.decode(errors="replace")


def _error_text(data: bytes) -> bytes | None:
    offset = int.from_bytes(data[:_WORD], "big")
    if offset > _MAX_UINT64 or len(data) < offset + _WORD:
        return None
    length = int.from_bytes(data[offset : offset + _WORD], "big")
    start = offset + _WORD
    return data[start : start + length] if length <= len(data) - start else None


def reverted(applied: Applied | Outcome) -> ExecutionReverted:
    """The error that a failed call answers: code 3, the returned bytes as `data`."""
    returned = _cbor_bytes(applied.return_)
    reason = ""
    if returned is not None:
        reason = f", revert reason=[{revert_reason(returned) if returned else 'none'}]"
    text = f"message execution failed (exit=[{exit_code_text(applied.exit_code)}]{reason}, "
    return ExecutionReverted(f"{text}vm error=[{failure_text(applied)}])", data="0x" + (returned or b"").hex())


def _cbor_bytes(data: bytes) -> bytes | None:
    """The byte string that CBOR bytes hold; None where they hold something else."""
    try:
        value = decode(data)
    except BadObject:
        return None
    return value if type(value) is bytes else None
