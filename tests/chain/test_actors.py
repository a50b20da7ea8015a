"""Actor states and parameters against what go-state-types makes of the same values.

`vectors/actors.jsonl.zst` holds, for every state, every parameter type and the values of maps and arrays in all
actors versions from 9 on, filled and empty: CBOR, the JSON that Go makes of it, and the CBOR that Go makes of
that JSON (`again` where it differs, null where Go refuses); `load` lines give the CBOR of a JSON document.
`vectors/params.jsonl.zst` holds parameters of actors version 19 with one item put in another's place, or cut short:
the JSON or the error that Go makes of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import chain.actors  # noqa: F401  (registers the kinds)
from blockstore.cid import Cid, cid_of
from chain.actors.leaves import BadJson, Type, Undefined
from chain.actors.methods import (
    EMPTY_OBJECT,
    KINDS,
    GoPanic,
    NoSuchMethod,
    OldActors,
    params_cbor,
    params_json,
    state_json,
)
from chain.actors.reader import read_value
from chain.actors.schema import TABLES, VERSIONS, Table, to_cbor, type_of, versions_of
from chain.actors.versions import LAST_VERSION
from chain.address import Address, from_id
from chain.errors import BadObject, ChainError
from chain.ipld.dag_cbor import decode, encode
from tests.support.paths import VECTORS

ACCOUNT = "account"


def lines_of(name: str) -> Iterator[dict[str, Any]]:
    packed = zstandard.ZstdDecompressor().decompress((VECTORS / name).read_bytes())
    return map(orjson.loads, packed.splitlines())


@cache
def vectors() -> tuple[dict[str, Any], ...]:
    return tuple(lines_of("actors.jsonl.zst"))


def type_in(vector: dict[str, Any]) -> Type:
    kind, version = KINDS[vector["kind"]], vector["v"]
    if "type" in vector:
        return kind.type(vector["type"], version)
    found = kind.method(vector["method"], version)
    assert found is not None, vector
    if found.params == "panics":
        return type_of("shared", "empty", 9)  # Go refuses every value of these, as it does the empty one
    return kind.type(found.params, version)


def is_type(vector: dict[str, Any], name: str) -> bool:
    return type_in(vector) is type_of("shared", name, 9)


def on_the_wire(value: Any) -> Any:
    """What a client sees of a JSON-ready value."""
    if isinstance(value, Address):
        return value.text("f")
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: on_the_wire(part) for key, part in value.items()}
    if isinstance(value, list):
        return [on_the_wire(part) for part in value]
    return value


def name_of(vector: dict[str, Any]) -> str:
    return f"{vector['kind']} v{vector['v']} {vector.get('method') or vector.get('type')}"


def decodable() -> Iterator[tuple[dict[str, Any], bytes]]:
    for vector in vectors():
        if "json" in vector and not is_type(vector, "rest") and not is_type(vector, "empty"):
            yield vector, bytes.fromhex(vector["cbor"])


def test_every_value_has_go_s_json() -> None:
    seen = 0
    for vector, data in decodable():
        kind = type_in(vector)
        for value in (kind.decode(decode(data)), read_value(kind, data)):
            assert on_the_wire(kind.dump(value)) == vector["json"], name_of(vector)
        seen += 1
    assert seen > 2000


def test_go_s_json_makes_go_s_cbor() -> None:
    seen = 0
    for vector, _ in decodable():
        kind = type_in(vector)
        wanted = vector.get("again", vector["cbor"])
        if wanted is None:
            with pytest.raises(ChainError):
                to_cbor(kind, kind.load(vector["json"], kind.zero()))
        else:
            assert to_cbor(kind, kind.load(vector["json"], kind.zero())).hex() == wanted, name_of(vector)
        seen += 1
    assert seen > 2000


def test_an_empty_json_object_makes_what_it_makes_in_go() -> None:
    refused = made = 0
    for vector in vectors():
        if "load" not in vector:
            continue
        kind = type_in(vector)
        if vector["cbor"] is None:
            with pytest.raises((Undefined, BadJson)):
                to_cbor(kind, kind.load(vector["load"], kind.zero()))
            refused += 1
        else:
            assert to_cbor(kind, kind.load(vector["load"], kind.zero())).hex() == vector["cbor"], name_of(vector)
            made += 1
    assert refused > 1000
    assert made > 300


def test_every_state_and_method_is_covered() -> None:
    covered = {(v["kind"], v["v"], v["method"]) for v in vectors() if "method" in v}
    states = {(v["kind"], v["v"]) for v in vectors() if v.get("type") == "State"}
    for kind in KINDS.values():
        seen = [kind.type("State", version) for name, version in states if name == kind.name]
        for version in VERSIONS:
            if kind.has_state and kind.table.definition("State", version) is not None:
                # a type that did not change needs no vector of its own
                assert (kind.name, version) in states or kind.type("State", version) in seen, (kind.name, version)
        for method in kind.methods[1:]:
            if method.params == "panics":
                assert any((kind.name, version, method.number) in covered for version in method.versions)
                continue
            seen = [
                kind.type(method.params, version)
                for name, version, number in covered
                if (name, number) == (kind.name, method.number) and version in method.versions
            ]
            for version in method.versions:
                if (kind.name, version, method.number) not in covered:
                    assert kind.type(method.params, version) in seen, (kind.name, version, method.name)


def test_exported_methods_have_the_number_of_their_name() -> None:
    checked = 0
    for kind in KINDS.values():
        for method in kind.methods:
            if method.number < 1 << 24:
                continue
            numbers = {frc42(method.name), frc42(method.name.removesuffix("Exported"))}
            if "NotExported" not in method.name and method.name not in ALIASED:
                assert method.number in numbers, method.name
                checked += 1
    assert checked > 60


#: exported under another name than the one that the table shows
ALIASED = {"InvokeContract", "InvokeEVM", "AuthenticateMessage", "UniversalReceiverHook"}


def frc42(name: str) -> int:
    digest = hashlib.blake2b(b"1|" + name.encode()).digest()
    for at in range(0, 64, 4):
        number = int.from_bytes(digest[at : at + 4], "big")
        if number >= 1 << 24:
            return number
    raise AssertionError(name)


def test_every_line_of_the_tables_makes_a_type() -> None:
    made = 0
    for kind, table in TABLES.items():
        for name in table.names():
            for version in VERSIONS:
                if table.definition(name, version) is not None:
                    found = type_of(kind, name, version)
                    assert found.decode is not None
                    assert found.zero() is not None
                    made += 1
    assert made > 1000


def test_a_bad_table_says_which_line() -> None:
    with pytest.raises(ValueError, match="not a field: '  Name'"):
        Table("made", "State\n  Name")
    with pytest.raises(ValueError, match="not a field"):
        Table("made", "  Name int")


def test_versions() -> None:
    assert versions_of("") == frozenset(VERSIONS)
    assert versions_of("9-11,14,18-") == frozenset((9, 10, 11, 14, *range(18, LAST_VERSION + 1)))


def test_older_actors_say_so() -> None:
    with pytest.raises(OldActors, match="storageminer of actors version 8 is not decoded"):
        state_json("storageminer", 8, b"", b"\x80")
    with pytest.raises(OldActors):
        params_json("multisig", 7, 2, b"\x80", "bafy")
    with pytest.raises(OldActors):
        params_cbor("multisig", 7, 2, {}, "bafy")


def test_kinds_without_state() -> None:
    assert state_json("placeholder", 12, EMPTY_OBJECT, b"\x80") is None
    with pytest.raises(BadObject, match="empty object"):
        state_json("eam", 12, cid_of(b"\x81\x00"), b"\x81\x00")
    with pytest.raises(BadObject, match="no actor kind"):
        state_json("chaos", 12, EMPTY_OBJECT, b"\x80")


def test_sending_takes_no_parameters() -> None:
    assert params_json(ACCOUNT, 19, 0, b"", "bafy") == {}
    assert params_json(ACCOUNT, 19, 0, b"\xff whatever", "bafy") == {}
    with pytest.raises(Undefined):
        params_cbor(ACCOUNT, 19, 0, {}, "bafy")


def test_unknown_methods() -> None:
    with pytest.raises(NoSuchMethod, match="unknown method 99 for actor bafy: actor metadata not found"):
        params_json(ACCOUNT, 19, 99, b"", "bafy")
    with pytest.raises(NoSuchMethod):
        params_cbor("", 0, 2, {}, "bafy")


def test_methods_on_which_lotus_panics() -> None:
    with pytest.raises(GoPanic):
        params_json("storageminer", 19, 3010055991, b"\x01", "bafy")
    with pytest.raises(GoPanic):
        params_cbor("cron", 19, 1, {"Entries": None}, "bafy")
    with pytest.raises(NoSuchMethod):  # not in that version yet
        params_json("storageminer", 17, 3010055991, b"\x01", "bafy")


def test_null_parameters_answer_as_the_panic_does() -> None:
    with pytest.raises(GoPanic) as caught:
        params_cbor("multisig", 19, 3, None, "bafy")
    assert caught.value.code == 0


def test_bytes_behind_parameters_are_not_looked_at() -> None:
    good = encode([from_id(100), b"\x00\x05", 0, b""])
    wanted = {"To": from_id(100), "Value": "5", "Method": 0, "Params": None}
    assert params_json("multisig", 19, 2, good, "bafy") == wanted
    assert params_json("multisig", 19, 2, good + b"\xff\xff", "bafy") == wanted
    with pytest.raises(BadObject):
        params_json("multisig", 19, 2, good[:-1], "bafy")


def test_a_byte_string_is_no_link_in_parameters() -> None:
    code = cid_of(b"code")
    assert params_json("init", 19, 2, encode([code, b"\x80"]), "bafy")["CodeCID"] == code
    with pytest.raises(BadObject, match="'tag'"):
        params_json("init", 19, 2, encode([bytes(code), b"\x80"]), "bafy")
    with pytest.raises(BadObject, match="byte array"):
        params_json("init", 19, 2, encode([code, code]), "bafy")


def test_what_go_would_not_read_is_refused_in_its_words() -> None:
    refused = read = 0
    for line in lines_of("params.jsonl.zst"):
        manifest = KINDS[line["kind"]].manifest
        call = partial(params_json, manifest, line["v"], line["method"], bytes.fromhex(line["cbor"]), "bafy")
        if "error" in line:
            with pytest.raises(BadObject) as caught:
                call()
            assert str(caught.value) == line["error"], line
            refused += 1
        else:
            assert on_the_wire(call()) == line["json"], line
            read += 1
    assert refused > 2000
    assert read > 100


def test_keys_are_matched_as_go_matches_them() -> None:
    wanted = encode([from_id(100), b"\x00\x05", 3, b"\x01"])
    exact = {"To": "f0100", "Value": "5", "Method": 3, "Params": "AQ=="}
    other = {"to": "f0100", "VALUE": "5", "mEtHoD": 3, "params": "AQ==", "Unknown": [1, {}]}
    assert params_cbor("multisig", 19, 2, exact, "bafy") == wanted
    assert params_cbor("multisig", 19, 2, other, "bafy") == wanted
    # null leaves a number as it is, and a slice empty
    assert params_cbor("multisig", 19, 2, exact | {"Method": None, "Params": None}, "bafy") == encode(
        [from_id(100), b"\x00\x05", 0, b""]
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"To": 7},
        {"To": "f0x"},
        {"To": "f0100", "Value": 5},
        {"To": "f0100", "Value": "5x"},
        {"To": "f0100", "Value": "9" * 5000},
        {"To": "f0100", "Value": "9" * 350},
        {"To": "f0100", "Method": -1},
        {"To": "f0100", "Method": 1.5},
        {"To": "f0100", "Method": 1 << 64},
        {"To": "f0100", "Params": "!"},
        {"To": "f0100", "Params": {}},
        [],
        "text",
        {},
    ],
)
def test_json_that_go_would_not_read(bad: Any) -> None:
    with pytest.raises(ChainError):
        params_cbor("multisig", 19, 2, bad, "bafy")


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=80)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(cid_of),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)
_KINDS_WITH_STATE = [kind.manifest for kind in KINDS.values() if kind.has_state]
_METHODS = [(kind.manifest, method.number) for kind in KINDS.values() for method in kind.methods]


@given(_values, st.sampled_from(_KINDS_WITH_STATE), st.sampled_from(list(VERSIONS)))
def test_a_random_object_is_an_error_not_a_crash(value: Any, manifest: str, version: int) -> None:
    data = encode(value)
    try:
        found = state_json(manifest, version, cid_of(data), data)
    except ChainError as error:
        assert str(error)
    else:
        assert isinstance(found, dict)


@given(st.binary(max_size=60) | _values.map(encode), st.sampled_from(_METHODS), st.sampled_from(list(VERSIONS)))
def test_random_parameters_are_an_error_not_a_crash(data: bytes, method: tuple[str, int], version: int) -> None:
    try:
        params_json(method[0], version, method[1], data, "bafy")
    except ChainError as error:
        assert str(error)


@given(st.data())
def test_a_spoilt_state_is_an_error_or_another_state(data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from([v for v in vectors() if v.get("type") == "State" and "json" in v]))
    raw = bytearray.fromhex(vector["cbor"])
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    kind = type_in(vector)
    try:
        kind.dump(kind.decode(decode(bytes(raw))))
    except ChainError as error:
        assert str(error)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["To", "Value", "Params", "Sectors", "/", "Deadline", "x"]), inner)
    ),
    max_leaves=12,
)


@given(_json, st.sampled_from(_METHODS), st.sampled_from(list(VERSIONS)))
def test_random_json_is_an_error_not_a_crash(item: Any, method: tuple[str, int], version: int) -> None:
    try:
        made = params_cbor(method[0], version, method[1], item, "bafy")
    except ChainError as error:
        assert str(error)
    else:
        assert isinstance(made, bytes)
