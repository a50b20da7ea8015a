"""CIDs as text: the fast base32 reader against the standard library's, and what neither takes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cid import Cid, base32_decode, base58_encode, cid_of, parse
from blockstore.errors import BadCid


@given(st.binary(min_size=1, max_size=80), st.booleans())
def test_base32_as_the_standard_library(data: bytes, upper: bool) -> None:
    text = base64.b32encode(data).decode().rstrip("=")
    assert base32_decode(text if upper else text.lower()) == data


@given(st.text(alphabet="abcxyz2347019_+- =\n\t.é", min_size=1, max_size=24))
def test_what_the_standard_library_refuses(text: str) -> None:
    try:
        wanted: bytes | None = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError:
        wanted = None
    if wanted is None or "=" in text:
        with pytest.raises(BadCid):
            base32_decode(text)
    else:
        assert base32_decode(text) == wanted


@given(st.binary(max_size=20), st.sampled_from([0x55, 0x71, 0x70, 0x51]))
def test_a_cid_comes_back_from_its_text(data: bytes, codec: int) -> None:
    cid = cid_of(data, codec)
    assert str(cid) == "b" + base64.b32encode(cid).decode().rstrip("=").lower()
    assert parse(str(cid)) == cid
    assert type(parse(str(cid))) is Cid


@pytest.mark.parametrize(
    "text", ["", "b", "bafy", "b_afy", "bafy2bzace", "b" + "a" * 61, "bafy2bzaceA!", "u" + "a" * 40]
)
def test_texts_that_are_no_cids(text: str) -> None:
    with pytest.raises(BadCid):
        parse(text)


def test_a_long_base58_text_is_refused_before_it_is_read() -> None:
    assert parse("z" + base58_encode(b"\1\x55\0\x7c" + bytes(124)))
    with pytest.raises(BadCid, match="257 characters of base58, of which 256 are read"):
        parse("z" + "2" * 257)
