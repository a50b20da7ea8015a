"""Return values of actors' methods: every type of the tables reads back what it writes."""

from __future__ import annotations

import pytest

import chain.actors  # noqa: F401  (fills the kinds)
from blockstore.cid import cid_of
from chain.actors.leaves import LEAVES
from chain.actors.methods import KINDS, NoSuchMethod, OldActors
from chain.actors.returns import _RETURNS, _returns, return_json
from chain.actors.schema import VERSIONS, type_of
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode


@pytest.mark.parametrize("version", VERSIONS)
def test_every_listed_type_is_there(version: int) -> None:
    resolved = 0
    for kind in KINDS.values():
        for number, name in _returns(kind.name, version).items():
            if kind.method(number, version) is not None:
                found = LEAVES[name] if name in LEAVES else type_of("returns", name, version)
                found.dump(found.zero()) if name not in ("addr", "cid") else None
                resolved += 1
    assert resolved > 25
    assert _RETURNS.keys() <= KINDS.keys()


def test_values_as_lotus_writes_them() -> None:
    exec_return = encode([b"\0\x64", b"\2" + b"a" * 20])
    assert return_json("init", 12, 2, exec_return)["IDAddress"] == b"\0\x64"
    made = encode([7, None, b"\xff" * 20])
    assert return_json("eam", 18, 4, made) == {"ActorID": 7, "RobustAddress": None, "EthAddress": [255] * 20}
    assert return_json("evm", 18, 3844450837, encode(b"abc")) == b"abc"
    assert return_json("evm", 18, 3844450837, encode(b"")) is None
    code = cid_of(b"code")
    assert return_json("evm", 18, 3, encode(code)) == {"Cid": code}
    assert return_json("evm", 18, 3, encode(None)) == {"Cid": None}
    batch = return_json("storageminer", 16, 34, encode([2, [[1, 16]]]))
    assert batch == {"SuccessCount": 2, "FailCodes": [{"Idx": 1, "Code": 16}]}
    assert return_json("storagemarket", 15, 3, encode(b"\0\5")) == "5"
    # a method that returns nothing shows an empty object, whatever came
    assert return_json("multisig", 15, 4, b"\x01") == {}


def test_what_cannot_be_decoded() -> None:
    with pytest.raises(NoSuchMethod):
        return_json("account", 18, 3844450837, b"\x40")
    with pytest.raises(NoSuchMethod):
        return_json("storageminer", 12, 34, b"\x80")
    with pytest.raises(OldActors):
        return_json("init", 8, 2, b"\x80")
    with pytest.raises(BadObject):
        return_json("init", 12, 2, b"\x80")
