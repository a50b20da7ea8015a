"""Messages, receipts, events. Source: Lotus `chain/types`, FIP-0049 (events), go-state-types `crypto`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blockstore.cid import Cid, cid_of
from chain.errors import BadObject
from chain.ipld.bigint import decode_bigint, encode_bigint
from chain.ipld.dag_cbor import decode, encode

SECP256K1: Final = 1
BLS: Final = 2
DELEGATED: Final = 3


@dataclass(frozen=True, slots=True)
class Message:
    """An unsigned message. Amounts in attoFIL; `to` and `from_` are address bytes."""

    version: int
    to: bytes
    from_: bytes
    nonce: int
    value: int
    gas_limit: int
    gas_fee_cap: int
    gas_premium: int
    method: int
    params: bytes

    @property
    def cid(self) -> Cid:
        """The CID of the unsigned form: the CID of a BLS message on chain."""
        return cid_of(encode_message(self))


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A message with its signature (type, bytes)."""

    message: Message
    signature: tuple[int, bytes]

    @property
    def cid(self) -> Cid:
        """The CID of the signed form; for a BLS signature, of the unsigned form."""
        if self.signature[0] == BLS:
            return self.message.cid
        return cid_of(encode([_fields(self.message), bytes((self.signature[0],)) + self.signature[1]]))


def _fields(m: Message) -> list[object]:
    return [
        m.version,
        m.to,
        m.from_,
        m.nonce,
        encode_bigint(m.value),
        m.gas_limit,
        encode_bigint(m.gas_fee_cap),
        encode_bigint(m.gas_premium),
        m.method,
        m.params,
    ]


def encode_message(message: Message) -> bytes:
    """The stored form of an unsigned message."""
    return encode(_fields(message))


def encode_signed_message(signed: SignedMessage) -> bytes:
    """The stored form of a signed message."""
    return encode([_fields(signed.message), bytes((signed.signature[0],)) + signed.signature[1]])


def _message(f: Any) -> Message:
    if not isinstance(f, list) or len(f) != 10:
        raise BadObject("not a message: wrong number of fields")
    if f[0] != 0:
        raise BadObject(f"decoded message had incorrect version ({f[0]})")
    if not (
        type(f[1]) is bytes
        and type(f[2]) is bytes
        and isinstance(f[3], int)
        and isinstance(f[5], int)
        and isinstance(f[8], int)
        and type(f[9]) is bytes
    ):
        raise BadObject("not a message: a field is of the wrong type")
    return Message(
        version=0,
        to=f[1],
        from_=f[2],
        nonce=f[3],
        value=decode_bigint(f[4]),
        gas_limit=f[5],
        gas_fee_cap=decode_bigint(f[6]),
        gas_premium=decode_bigint(f[7]),
        method=f[8],
        params=f[9],
    )


def decode_message(raw: bytes) -> Message:
    """An unsigned message. Errors: BadObject."""
    return _message(decode(raw))


def decode_signed_message(raw: bytes) -> SignedMessage:
    """A signed message. Errors: BadObject."""
    f = decode(raw)
    if not isinstance(f, list) or len(f) != 2 or type(f[1]) is not bytes or not f[1]:
        raise BadObject("not a signed message")
    return SignedMessage(_message(f[0]), (f[1][0], f[1][1:]))


def decode_any_message(raw: bytes) -> Message | SignedMessage:
    """The unsigned or signed message that `raw` holds. Errors: BadObject."""
    f = decode(raw)
    if isinstance(f, list) and len(f) == 10:
        return _message(f)
    return decode_signed_message(raw)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The receipt of a message. `events_root`: an AMT of bit width 5; `version`: 0 before FIP-0049, else 1."""

    version: int
    exit_code: int
    return_: bytes
    gas_used: int
    events_root: Cid | None


def receipt_from_fields(f: Any) -> Receipt:
    """A receipt from its decoded fields (3 or 4). Errors: BadObject."""
    if (
        not isinstance(f, list)
        or len(f) not in (3, 4)
        or not isinstance(f[0], int)
        or type(f[1]) is not bytes
        or not isinstance(f[2], int)
    ):
        raise BadObject("not a message receipt")
    if len(f) == 3:
        return Receipt(0, f[0], f[1], f[2], None)
    return Receipt(1, f[0], f[1], f[2], None if f[3] is None else Cid(f[3]))


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One key and value of an event. `flags`: 1 indexed key, 2 indexed value; `codec`: the codec of the value."""

    flags: int
    key: str
    codec: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `emitter`: the ID of the actor that emitted it."""

    emitter: int
    entries: tuple[EventEntry, ...]


def event_from_fields(f: Any) -> Event:
    """An event from its decoded fields. Errors: BadObject."""
    try:
        emitter, entries = f
        return Event(emitter, tuple(EventEntry(*entry) for entry in entries))
    except (TypeError, ValueError):
        raise BadObject("not an event") from None
