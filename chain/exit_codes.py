"""Exit codes of messages, and their names. Source: go-state-types `exitcode/names.go`."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {
    0: "Ok",
    1: "SysErrSenderInvalid",
    2: "SysErrSenderStateInvalid",
    3: "SysErrReserved1",
    4: "SysErrIllegalInstruction",
    5: "SysErrInvalidReceiver",
    6: "SysErrInsufficientFunds",
    7: "SysErrOutOfGas",
    8: "SysErrReserved2",
    9: "SysErrIllegalExitCode",
    10: "SysFatal",
    11: "SysErrMissingReturn",
    12: "SysErrReserved3",
    13: "SysErrReserved4",
    14: "SysErrReserved5",
    15: "SysErrReserved6",
    16: "ErrIllegalArgument",
    17: "ErrNotFound",
    18: "ErrForbidden",
    19: "ErrInsufficientFunds",
    20: "ErrIllegalState",
    21: "ErrSerialization",
    22: "ErrUnhandledMessage",
    23: "ErrUnspecified",
    24: "ErrAssertionFailed",
    25: "ErrReadOnly",
    26: "ErrNotPayable",
}


def exit_code_text(code: int) -> str:
    """An exit code as Lotus writes it: the name where it has one, then the number."""
    name = _NAMES.get(code)
    return str(code) if name is None else f"{name}({code})"
