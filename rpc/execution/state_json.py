"""Changes of accounts in the forms of the tools: geth's `prestateTracer`, Parity's `stateDiff`.

Sources: go-ethereum `eth/tracers/native/prestate.go`; Forest `src/rpc/methods/eth/trace/state_diff.rs`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any, Final

from rpc import eth_json
from rpc.execution.state_changes import Account, Change

_WORD: Final = 32
_UNCHANGED: Final = "="
_NOTHING: Final = Account(0, 0)


@dataclass(frozen=True, slots=True)
class PrestateOptions:
    """What `prestateTracer` shows."""

    diff_mode: bool = False
    shows_code: bool = True
    shows_storage: bool = True


async def prestate(changes: AsyncIterable[Change], options: PrestateOptions) -> dict[str, Any]:
    """The accounts before the execution. Of the storage: the slots that it changed."""
    out: dict[str, Any] = {}
    async for change in changes:
        if change.before is not None:
            slots = {_word(slot): _word(old) for slot, (old, _) in change.slots.items()}
            out[eth_json.data(change.address)] = _account(change.before, slots, options)
    return out


async def state_difference(changes: AsyncIterable[Change], options: PrestateOptions) -> dict[str, Any]:
    """`pre`: accounts that changed, as they were; `post`: what of them changed, as it is.

    Slots that are zero are left out. A contract that destroyed itself is in `pre` only.
    """
    pre: dict[str, Any] = {}
    post: dict[str, Any] = {}
    async for change in changes:
        before, after = change.before, change.after
        address = eth_json.data(change.address)
        old = {_word(slot): _word(value) for slot, (value, _) in change.slots.items() if value}
        new = {_word(slot): _word(value) for slot, (_, value) in change.slots.items() if value}
        is_changed = _fields(before) != _fields(after) or bool(change.slots)
        if not is_changed:
            continue
        if before is not None:
            pre[address] = _account(before, old, options)
        if after is not None and not (after.is_dead and not after.balance):
            post[address] = _changed_fields(before or _NOTHING, after, new, options)
    return {"pre": pre, "post": post}


def _fields(account: Account | None) -> tuple[int, int, bytes] | None:
    return None if account is None else (account.balance, account.nonce, account.code)


def _account(account: Account, slots: dict[str, str], options: PrestateOptions) -> dict[str, Any]:
    """What is zero or empty is left out, but for the balance."""
    return {"balance": hex(account.balance), **_changed_fields(_NOTHING, account, slots, options)}


def _changed_fields(before: Account, after: Account, slots: dict[str, str], options: PrestateOptions) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if after.balance != before.balance:
        shown["balance"] = hex(after.balance)
    if options.shows_code and after.code and after.code != before.code:
        shown["code"] = eth_json.data(after.code)
    if after.nonce and after.nonce != before.nonce:
        shown["nonce"] = after.nonce
    if options.shows_storage and slots:
        shown["storage"] = slots
    return shown


async def parity_difference(changes: AsyncIterable[Change]) -> dict[str, Any]:
    """Parity's `stateDiff`: "=" unchanged, "+" new, "-" gone, "*" changed. Only accounts that changed."""
    out: dict[str, Any] = {}
    async for change in changes:
        before, after = change.before, change.after
        shown: dict[str, Any] = {
            "balance": _delta(*(None if one is None else hex(one.balance) for one in (before, after))),
            "code": _delta(
                *(None if one is None or not one.code else eth_json.data(one.code) for one in (before, after))
            ),
            "nonce": _delta(*(None if one is None else hex(one.nonce) for one in (before, after))),
        }
        was, is_now = (one is not None and one.is_contract for one in (before, after))
        storage: dict[str, Any] = {}
        for slot, (old, new) in change.slots.items():
            storage[_word(slot)] = _delta(_word(old) if was else None, _word(new) if is_now else None)
        if storage or any(one != _UNCHANGED for one in shown.values()):
            out[eth_json.data(change.address)] = shown | {"storage": storage}
    return out


def _delta(old: str | None, new: str | None) -> Any:
    if old == new:
        return _UNCHANGED
    if old is None:
        return {"+": new}
    return {"-": old} if new is None else {"*": {"from": old, "to": new}}


def _word(value: int) -> str:
    return eth_json.data(value.to_bytes(_WORD, "big"))
