"""Parameters as Go decodes them, and the names of Go's types in the texts of -32700."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import zstandard

from chain.actors.codes import bundle_of
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from rpc.registry import REGISTRY, V1, V2, Versions
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded

SMALL = SimSettings(accounts=12, miners=4, miner_updates=0, messages=0)


async def dispatcher() -> Dispatcher:
    node = SimulatedNode(SMALL)
    await node.prepare()
    await node.extend()
    return Dispatcher(node._services)


async def ask(where: Dispatcher, name: str, params: list[Any]) -> tuple[int, dict[str, Any]]:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"Filecoin.{name}", "params": params})
    status, answer = await where.http(1, body)
    return status, orjson.loads(answer)


async def test_bytes_may_come_as_an_array_of_numbers() -> None:
    where = await dispatcher()
    _, as_text = await ask(where, "StateGetRandomnessFromBeacon", [1, 1, "AQAD", []])
    for data in ([1, 0, 3], [1, None, 3]):
        assert await ask(where, "StateGetRandomnessFromBeacon", [1, 1, data, []]) == (200, as_text)
    for data, wrong in (([300], "number 300"), ([-1], "number -1"), (["a"], "string"), ([[]], "array")):
        status, answer = await ask(where, "StateGetRandomnessFromBeacon", [1, 1, data, []])
        assert status == 500
        assert answer["error"]["message"].endswith(f"json: cannot unmarshal {wrong} into Go value of type uint8")


@pytest.mark.parametrize(
    ("name", "params", "go", "value"),
    [
        ("StateActorCodeCIDs", ["x"], "network.Version", "string"),
        ("StateActorManifestCID", [-1], "network.Version", "number -1"),
        ("StateGetRandomnessFromTickets", ["x", 1, "", []], "crypto.DomainSeparationTag", "string"),
    ],
)
async def test_types_are_named_as_go_names_them(name: str, params: list[Any], go: str, value: str) -> None:
    _, answer = await ask(await dispatcher(), name, params)
    assert answer["error"] == {
        "code": -32700,
        "message": f"unmarshaling params for 'Filecoin.{name}' (param: *{go}): "
        f"json: cannot unmarshal {value} into Go value of type {go}",
    }


async def test_a_bitfield_is_a_pointer() -> None:
    _, answer = await ask(await dispatcher(), "StateMinerSectors", ["t01000", 5, []])
    assert "(param: **bitfield.BitField): json: cannot unmarshal number into Go" in answer["error"]["message"]


async def test_null_params_make_lotus_panic() -> None:
    """Go takes null for no value at all, and go-jsonrpc answers a panic with status 500."""
    bundle = bundle_of("mainnet", 19)
    assert bundle is not None
    where = await dispatcher()
    status, answer = await ask(where, "StateEncodeParams", [{"/": str(bundle.actors["multisig"])}, 2, None])
    assert status == 500
    assert answer["error"]["code"] == 0
    assert answer["error"]["message"].startswith("fatal error calling 'Filecoin.StateEncodeParams': panic in rpc")
    status, answer = await ask(where, "StateEncodeParams", [None, None, None])
    assert (status, answer["error"]["code"]) == (200, 1)
    assert "unknown method 0 for actor b" in answer["error"]["message"]


async def test_a_null_network_version_is_the_first() -> None:
    where = await dispatcher()
    _, answer = await ask(where, "StateActorCodeCIDs", [None])
    assert answer == (await ask(where, "StateActorCodeCIDs", [0]))[1]
    assert answer["result"]["account"] == {"/": "bafkqadlgnfwc6mjpmfrwg33vnz2a"}  # fil/1/account
    assert len(answer["result"]) == 11
    seven = (await ask(where, "StateActorCodeCIDs", [15]))[1]["result"]
    assert seven["storageminer"] == {"/": "bafkqaetgnfwc6nzpon2g64tbm5sw22lomvza"}  # fil/7/storageminer
    _, none = await ask(where, "StateActorManifestCID", [None])
    assert none["error"]["message"] == "could not find manifest cid for network version 0, actors version 0"


#: how Lotus' source spells a type, and how Go's %T prints it
_SPELLED = (
    ("*MessageSendSpec", "*api.MessageSendSpec"),
    ("abinetwork.", "network."),
    ("verifregtypes.", "verifreg."),
    ("*MessageMatch", "*api.MessageMatch"),
)


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("document", "version", "least"), [("v1-full", V1, 140), ("v1-gateway", V1, 90), ("v2-full", V2, 45)]
)
def test_every_parameter_has_the_name_of_lotus_type(document: str, version: Versions, least: int) -> None:
    with zstandard.open(recorded(f"openrpc/{document}.json.zst")) as file:
        methods = {method["name"]: method for method in orjson.loads(file.read())["methods"]}
    compared = 0
    for method in REGISTRY.names(version).values():
        # what the node decodes itself is passed on as it came
        if method.raw or method.name not in methods:
            continue
        types = [param["description"].replace("[]byte", "[]uint8") for param in methods[method.name]["params"]]
        for source, printed in _SPELLED:
            types = [text.replace(source, printed) for text in types]
        assert [param.go for param in method.params] == types, method.name
        compared += 1
    assert compared >= least
