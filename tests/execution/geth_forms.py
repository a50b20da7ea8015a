"""The JSON of geth's tracers, field by field. Source: go-ethereum `eth/tracers/native/{call,prestate}.go`."""

from __future__ import annotations

import re
from typing import Any

_QUANTITY = re.compile(r"0x(0|[1-9a-f][0-9a-f]*)")
_BYTES = re.compile(r"0x([0-9a-f]{2})*")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_WORD = re.compile(r"0x[0-9a-f]{64}")
_TYPES = {"CALL", "STATICCALL", "DELEGATECALL", "CREATE", "CREATE2"}
_FRAME = {
    "type": re.compile("|".join(_TYPES)), "from": _ADDRESS, "to": _ADDRESS, "value": _QUANTITY, "gas": _QUANTITY,
    "gasUsed": _QUANTITY, "input": _BYTES, "output": _BYTES, "error": re.compile("(?s).+"),
    "revertReason": re.compile("(?s).*"),
}  # fmt: skip
_LOG = {"address": _ADDRESS, "data": _BYTES, "position": _QUANTITY}


def check_call_frame(frame: dict[str, Any]) -> None:
    """Errors: AssertionError, for what geth's `callTracer` does not answer."""
    assert {"type", "from", "gas", "gasUsed", "input"} <= frame.keys()
    assert frame.keys() <= _FRAME.keys() | {"calls", "logs"}, frame.keys()
    for name, form in _FRAME.items():
        if name in frame:
            assert isinstance(frame[name], str), name
            assert form.fullmatch(frame[name]), (name, frame[name][:100])
    assert frame.get("output") != "0x"
    if "revertReason" in frame:
        assert frame["error"] == "execution reverted"
    assert ("value" in frame) == (frame["type"] != "STATICCALL")
    if not frame["type"].startswith("CREATE"):
        assert "to" in frame or "error" in frame
    for log in frame.get("logs", ()):
        assert log.keys() == _LOG.keys() | {"topics"}
        assert all(_WORD.fullmatch(topic) for topic in log["topics"])
        assert len(log["topics"]) <= 4
        for name, form in _LOG.items():
            assert form.fullmatch(log[name]), (name, log[name])
        assert int(log["position"], 16) <= len(frame.get("calls", ()))
    assert frame.get("calls") != []
    assert frame.get("logs") != []
    for one in frame.get("calls", ()):
        check_call_frame(one)


def check_prestate(found: dict[str, Any]) -> None:
    """Errors: AssertionError, for what geth's `prestateTracer` does not answer."""
    assert found
    for address, account in found.items():
        assert _ADDRESS.fullmatch(address), address
        assert "balance" in account
        _check_account(account)


def check_difference(found: dict[str, Any]) -> None:
    """Errors: AssertionError, for what geth's `prestateTracer` does not answer with `diffMode`."""
    assert found.keys() == {"pre", "post"}
    for side in found.values():
        for address, account in side.items():
            assert _ADDRESS.fullmatch(address), address
            _check_account(account)
            assert all(int(value, 16) for value in account.get("storage", {}).values())


def _check_account(account: dict[str, Any]) -> None:
    assert account.keys() <= {"balance", "code", "nonce", "storage"}
    if "balance" in account:
        assert _QUANTITY.fullmatch(account["balance"])
    if "code" in account:
        assert _BYTES.fullmatch(account["code"])
        assert account["code"] != "0x"
    if "nonce" in account:
        assert type(account["nonce"]) is int
        assert account["nonce"] > 0
    assert account.get("storage") != {}
    for slot, value in account.get("storage", {}).items():
        assert _WORD.fullmatch(slot)
        assert _WORD.fullmatch(value)
