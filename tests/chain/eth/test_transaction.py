"""The hashes of transactions, against the RLP library's own way, which looks at the type of each field."""

from __future__ import annotations

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st

from chain.address import delegated
from chain.eth.transaction import INVOKE_CONTRACT, NotEthTx, eth_tx
from chain.message import DELEGATED, Message, SignedMessage
from chain.signature import keccak256

CHAIN_ID = 31415926
SENDER, RECEIVER = (delegated(10, bytes([at]) * 20) for at in (1, 2))
amounts = st.integers(0, 1 << 120)


def signed(signature: bytes, value: int, nonce: int = 0, params: bytes = b"") -> SignedMessage:
    message = Message(0, RECEIVER, SENDER, nonce, value, 10**7, 10**9, 10**5, INVOKE_CONTRACT, params)
    return SignedMessage(message, (DELEGATED, signature))


@given(
    amounts, st.integers(0, 1 << 64), st.binary(max_size=80).filter(bool), st.integers(0, 1), st.integers(1, 1 << 256)
)
def test_hashes_are_those_of_the_fields(value: int, nonce: int, data: bytes, v: int, r: int) -> None:
    r %= 1 << 256
    params = (bytes([0x58, len(data)]) if len(data) > 23 else bytes([0x40 | len(data)])) + data
    numbers = r.to_bytes(32, "big") + (7).to_bytes(32, "big") + bytes([v])
    found = eth_tx(signed(numbers, value, nonce, params), CHAIN_ID)
    fields = [CHAIN_ID, nonce, 10**5, 10**9, 10**7, bytes([2]) * 20, value, data, [], v, r, 7]
    assert found.hash == keccak256(b"\x02" + rlp.encode(fields))
    old = eth_tx(signed(b"\x01" + numbers[:-1] + bytes([27 + v]), value, nonce, params), CHAIN_ID)
    assert old.hash == keccak256(rlp.encode([nonce, 10**9, 10**7, bytes([2]) * 20, value, data, 27 + v, r, 7]))


def test_a_negative_amount_makes_no_transaction() -> None:
    with pytest.raises(NotEthTx, match="no negative numbers: -5"):
        eth_tx(signed(bytes(65), -5), CHAIN_ID)
