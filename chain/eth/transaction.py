"""Messages as Ethereum transactions: their fields, and the hash of those that were signed as such.

A message with a delegated signature was made from a transaction (EIP-1559, EIP-155 or older), which is put
together again to be hashed. The signature tells which: 65 bytes of r, s, v for EIP-1559; for the older two a
byte 1 or 2 stands before, and the v of EIP-155 is as long as the chain id makes it. A native message is shown
as an EIP-1559 transaction whose input calls the method with its parameters. Sources: Lotus
`chain/types/ethtypes/eth_*transactions.go`, `node/impl/eth/utils.go`; EIP-155, EIP-1559.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import rlp

from chain.address import Address, from_id
from chain.errors import BadObject, ChainError
from chain.eth.types import EthAddressError, eth_address
from chain.message import DELEGATED, Message, SignedMessage
from chain.signature import keccak256

#: the Ethereum address manager, which makes contracts
EAM: Final = from_id(10)
CREATE_EXTERNAL: Final = 4
INVOKE_CONTRACT: Final = 3844450837

LEGACY: Final = 0
EIP_1559: Final = 2

_SIGNATURE_1559: Final = 65
_SIGNATURE_OLD: Final = 66
_HOMESTEAD: Final = 1
_EIP_155: Final = 2
_CBOR: Final = 0x51
#: the selector of "handle_filecoin_method"
_NATIVE_SELECTOR: Final = b"\x86\x8e\x10\xc4"
_WORD: Final = 32
_OVERUSE: Final = (11, 10)


class NotEthTx(ChainError):
    """A message with a delegated signature that no transaction can have become."""


@dataclass(frozen=True, slots=True)
class EthTx:
    """A transaction. Amounts in attoFIL; `to` None makes a contract.

    `gas_price` is set for the older two kinds, `max_fee` and `max_priority_fee` for EIP-1559. `native` marks a
    message that was none (its access list is empty, not absent).
    """

    kind: int
    chain_id: int
    hash: bytes
    sender: bytes
    to: bytes | None
    nonce: int
    value: int
    input: bytes
    gas: int
    max_fee: int | None = None
    max_priority_fee: int | None = None
    gas_price: int | None = None
    v: int = 0
    r: int = 0
    s: int = 0
    native: bool = False

    @property
    def fee_cap(self) -> int:
        """The most that a gas unit may cost."""
        return self.max_fee if self.max_fee is not None else self.gas_price or 0

    @property
    def premium(self) -> int:
        """What a gas unit pays to the miner at most."""
        return self.max_priority_fee if self.max_priority_fee is not None else self.gas_price or 0


# --- parameters ----------------------------------------------------------------------------------------


def cbor_bytes(data: bytes) -> tuple[bytes, int]:
    """(the CBOR byte string that `data` begins with, where it ends). Errors: BadObject."""
    if not data or data[0] >> 5 != 2:
        raise BadObject("expected a byte string")
    length = data[0] & 31
    at = 1
    if length > 27:
        raise BadObject("a byte string of no definite length")
    if length > 23:
        at += 1 << (length - 24)
        least = (24, 0x100, 0x10000, 0x100000000)[length - 24]
        length = int.from_bytes(data[1:at], "big")
        if len(data) < at or length < least:
            raise BadObject("the length of a byte string is not in its shortest form")
    if length > len(data) - at:
        raise BadObject("a byte string is cut short")
    return data[at : at + length], at + length


def _call(message: Message) -> tuple[bytes, bytes | None]:
    """(input, receiver) of a message that was a transaction."""
    data = b""
    if message.params:
        try:
            data, end = cbor_bytes(message.params)
        except BadObject as error:
            raise NotEthTx(f"failed to read params byte array: {error}") from None
        if end != len(message.params):
            raise NotEthTx("extra data found in params")
        if not data:
            raise NotEthTx("non-empty params encode empty byte array")
    if message.to == EAM:
        if message.method != CREATE_EXTERNAL:
            raise NotEthTx("unsupported EAM method")
        return data, None
    if message.method != INVOKE_CONTRACT:
        raise NotEthTx(
            f"invalid methodnum {message.method}: only allowed method is InvokeContract({INVOKE_CONTRACT}) "
            f"or CreateExternal({CREATE_EXTERNAL})"
        )
    return data, eth_address(Address(message.to))


def native_input(message: Message) -> bytes:
    """The input of the transaction that a native message is shown as."""
    if message.method == INVOKE_CONTRACT or _creates(message):
        try:
            return cbor_bytes(message.params)[0] if message.params else b""
        except BadObject:
            pass  # anyone may send parameters that are none: they are shown as they are
    words = (message.method, _CBOR if message.params else 0, 3 * _WORD, len(message.params))
    padding = bytes(-len(message.params) % _WORD)
    return _NATIVE_SELECTOR + b"".join(word.to_bytes(_WORD, "big") for word in words) + message.params + padding


def _creates(message: Message) -> bool:
    return message.to == EAM and message.method == CREATE_EXTERNAL


def makes_contract(message: Message) -> bool:
    """Whether a native message is shown as the making of a contract."""
    if not _creates(message):
        return False
    try:
        return not message.params or cbor_bytes(message.params) is not None
    except BadObject:
        return False


# --- transactions --------------------------------------------------------------------------------------


def _rlp(fields: Sequence[object]) -> bytes:
    """Errors: NotEthTx (a negative number)."""
    # the library would look at the type of each field: three quarters of its time
    return bytes(rlp.encode([_minimal(one) if isinstance(one, int) else one for one in fields], infer_serializer=False))


def _minimal(number: int) -> bytes:
    if number < 0:
        raise NotEthTx(f"a transaction has no negative numbers: {number}")
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def eth_tx(signed: SignedMessage, chain_id: int) -> EthTx:
    """The transaction that a message with a delegated signature was made from.

    Errors: NotEthTx, EthAddressError (the receiver has no Ethereum address).
    """
    message = signed.message
    kind, signature = signed.signature
    if kind != DELEGATED:
        raise NotEthTx(f"signature is not delegated type, is type: {kind}")
    try:
        sender = eth_address(Address(message.from_))
    except EthAddressError:
        raise NotEthTx("sender was not an eth account") from None
    data, to = _call(message)
    receiver = to or b""
    if len(signature) == _SIGNATURE_1559:
        r, s, v = _numbers(signature)
        fields = [
            chain_id, message.nonce, message.gas_premium, message.gas_fee_cap, message.gas_limit,
            receiver, message.value, data, [], v, r, s,
        ]  # fmt: skip
        return EthTx(
            EIP_1559, chain_id, keccak256(b"\x02" + _rlp(fields)), sender, to, message.nonce, message.value, data,
            message.gas_limit, max_fee=message.gas_fee_cap, max_priority_fee=message.gas_premium, v=v, r=r, s=s,
        )  # fmt: skip
    if len(signature) not in {_SIGNATURE_OLD, *_lengths_155(chain_id)}:
        raise NotEthTx("unsupported signature length")
    r, s, v = _numbers(signature[1:])
    if signature[0] == _HOMESTEAD:
        if len(signature) != _SIGNATURE_OLD or v not in (27, 28):
            raise NotEthTx("legacy homestead transactions only support 27 or 28 for v")
    elif signature[0] == _EIP_155:
        if v not in (2 * chain_id + 35, 2 * chain_id + 36):
            raise NotEthTx(f"failed to validate EIP155 chain id: invalid chain id, expected {chain_id}")
    else:
        raise NotEthTx(f"unsupported legacy transaction; first byte of signature is {signature[0]}")
    price = message.gas_fee_cap
    fields = [message.nonce, price, message.gas_limit, receiver, message.value, data, v, r, s]
    return EthTx(
        LEGACY, chain_id if signature[0] == _EIP_155 else 0, keccak256(_rlp(fields)), sender, to, message.nonce,
        message.value, data, message.gas_limit, gas_price=price, v=v, r=r, s=s,
    )  # fmt: skip


def _numbers(signature: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(signature[:32], "big"),
        int.from_bytes(signature[32:64], "big"),
        int.from_bytes(signature[64:], "big"),
    )


def _lengths_155(chain_id: int) -> tuple[int, int]:
    low, high = ((2 * chain_id + v).bit_length() + 7 >> 3 for v in (35, 36))
    return _SIGNATURE_OLD - 1 + low, _SIGNATURE_OLD - 1 + high


def native_tx(message: Message, digest: bytes, sender: bytes, to: bytes, chain_id: int) -> EthTx:
    """A native message as a transaction: its own hash, the Ethereum addresses of its two ends."""
    return EthTx(
        EIP_1559, chain_id, digest, sender, None if makes_contract(message) else to, message.nonce, message.value,
        native_input(message), message.gas_limit, max_fee=message.gas_fee_cap,
        max_priority_fee=message.gas_premium, native=True,
    )  # fmt: skip


def is_eth(signed: SignedMessage | None) -> bool:
    """Whether a message was signed as an Ethereum transaction."""
    return signed is not None and signed.signature[0] == DELEGATED


# --- what a transaction paid ---------------------------------------------------------------------------


def overestimation_burn(gas_used: int, gas_limit: int) -> int:
    """Gas burned because the limit was set too high."""
    if gas_used == 0:
        return gas_limit
    over = min(gas_limit - _OVERUSE[0] * gas_used // _OVERUSE[1], gas_used)
    return 0 if over < 0 else (gas_limit - gas_used) * over // gas_used


def effective_gas_price(tx: EthTx, gas_used: int, base_fee: int) -> int:
    """attoFIL that each gas unit used has cost, all burns and the tip taken together; 0 where none was used."""
    if gas_used == 0:
        return 0
    fee = min(base_fee, tx.fee_cap)
    tip = min(tx.premium, tx.fee_cap - fee) * tx.gas
    return (fee * (gas_used + overestimation_burn(gas_used, tx.gas)) + tip) // gas_used


def effective_premium(message: Message, base_fee: int) -> int:
    """What a gas unit of a message pays to the miner at this base fee."""
    return min(message.gas_premium, max(message.gas_fee_cap - base_fee, 0))
