"""Addresses against go-address' own answers, and round trips."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.address import Address, actor, bls, delegated, from_id, parse, secp256k1
from chain.errors import BadAddress
from tests.support.paths import VECTORS

CASES: dict[str, Any] = json.loads((VECTORS / "addresses.json").read_text())

ids = st.integers(0, 2**63 - 1)
addresses = st.one_of(
    ids.map(from_id),
    st.binary(min_size=65, max_size=65).map(secp256k1),
    st.binary(max_size=80).map(actor),
    st.binary(min_size=48, max_size=48).map(bls),
    st.builds(delegated, ids, st.binary(max_size=54)),
)


def test_texts_read_as_in_go_address() -> None:
    for case in CASES["texts"]:
        if "error" in case:
            with pytest.raises(BadAddress) as caught:
                parse(case["text"])
            assert str(caught.value) == case["error"], case
        else:
            assert parse(case["text"]).hex() == case.get("bytes", ""), case


def test_bytes_read_as_in_go_address() -> None:
    for case in CASES["bytes"]:
        data = bytes.fromhex(case["bytes"])
        if "error" in case:
            with pytest.raises(BadAddress) as caught:
                Address.checked(data)
            assert str(caught.value) == case["error"], case
        else:
            assert Address.checked(data).text() == case["text"], case


@given(addresses, st.sampled_from("ft"))
def test_round_trip(address: Address, prefix: str) -> None:
    text = address.text(prefix)
    assert text[0] == prefix
    assert parse(text) == address == Address.checked(bytes(address))


@given(ids)
def test_ids(actor_id: int) -> None:
    address = from_id(actor_id)
    assert address.id == actor_id
    assert address.is_id
    assert address.text() == f"f0{actor_id}"


@given(ids, st.binary(max_size=54))
def test_delegated_parts(namespace: int, subaddress: bytes) -> None:
    address = delegated(namespace, subaddress)
    assert (address.namespace, address.subaddress) == (namespace, subaddress)


@given(st.text(max_size=130))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse(text)
    except BadAddress:
        return
    assert parse(address.text()) == address


@given(st.binary(max_size=70))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        address = Address.checked(data)
    except BadAddress:
        return
    assert parse(address.text()) == data


@given(addresses.filter(lambda a: a.protocol != 0), st.data())
def test_one_changed_letter_is_refused(address: Address, data: st.DataObject) -> None:
    text = address.text()
    at = data.draw(st.integers(text.index("f", 2) + 1 if address.protocol == 4 else 2, len(text) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567").filter(lambda c: c != text[at]))
    with pytest.raises(BadAddress):
        parse(text[:at] + letter + text[at + 1 :])


def test_the_undefined_address() -> None:
    assert parse("") == parse("<empty>") == Address()
    assert Address().text() == "<empty>"
    with pytest.raises(BadAddress):
        _ = Address().id


@pytest.mark.parametrize("bad", [-1, 2**63])
def test_ids_out_of_range(bad: int) -> None:
    with pytest.raises(BadAddress):
        from_id(bad)
