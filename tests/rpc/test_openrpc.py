"""The OpenRPC document says what is served, all of it and nothing else."""

from __future__ import annotations

import importlib
import json
import pkgutil

import orjson
import pytest
import zstandard

import rpc.methods
from rpc.known import known_methods
from rpc.openrpc import document
from rpc.registry import REGISTRY, V0, V1, V2, Registry, Versions
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services

for found in pkgutil.iter_modules(rpc.methods.__path__):
    importlib.import_module(f"rpc.methods.{found.name}")


@pytest.mark.parametrize("version", list(Versions))
def test_every_method_is_described_once(version: Versions) -> None:
    described = document(REGISTRY, version, "1.0")
    names = [method["name"] for method in described["methods"]]
    assert names == sorted(set(names))
    assert set(names) == {m.name for m in REGISTRY if m.versions & version}
    for method in described["methods"]:
        assert method["summary"], f"{method['name']} has no docstring"
        declared = next(m for m in REGISTRY if m.name == method["name"] and m.versions & version)
        assert [p["name"] for p in method["params"]] == [p.name for p in declared.params]
    orjson.dumps(described)


@pytest.mark.parametrize(("number", "path"), [(0, "v0"), (1, "v1"), (2, "v2")])
async def test_discover_tells_of_its_own_path(number: int, path: str) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover","params":[]}'
    status, answer = await Dispatcher(services()).http(number, body)
    result = json.loads(answer)["result"]
    assert status == 200
    assert result["info"]["title"].endswith(path)
    names = {method["name"] for method in result["methods"]}
    assert "Filecoin.Discover" in names
    assert ("Filecoin.StateNetworkName" in names) == (number < 2)


def test_parameters_and_results_have_schemas() -> None:
    described = {m["name"]: m for m in document(make_registry(), V1, "1")["methods"]}
    add = described["Test.Add"]
    assert [p["schema"]["type"] for p in add["params"]] == ["integer", "integer"]
    assert add["result"]["schema"]["type"] == "integer"
    assert described["Test.Count"]["x-channel"] is True
    assert described["Test.Raw"]["paramStructure"] == "either"
    assert described["Test.Write"]["x-permission"] == "write"
    assert described["Test.Heavy"]["x-cost"] == "heavy"


def test_a_name_is_declared_once() -> None:
    registry = Registry()

    async def handler(ctx: object) -> None:
        """Nothing."""

    registry.method("A.B", versions=V0)(handler)
    registry.method("A.B", versions=V1)(handler)
    with pytest.raises(ValueError, match="declared twice"):
        registry.method("A.C", aliases=("A.B",), versions=V1 | V2)(handler)
    with pytest.raises(TypeError, match="no decoder"):

        async def bad(ctx: object, value: complex) -> None:
            """Nothing."""

        registry.method("A.D")(bad)


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "version"),
    [("v1-full", V1), ("v1-gateway", V1), ("v0-gateway", V0), ("v2-full", V2), ("v2-gateway", V2)],
)
async def test_every_method_of_the_node_is_known(name: str, version: Versions) -> None:
    """No method that Lotus describes is "not found" here: it is served, or said to be not served yet."""
    data = zstandard.ZstdDecompressor().stream_reader(recorded(f"openrpc/{name}.json.zst").read_bytes()).read()
    names = [method["name"] for method in json.loads(data)["methods"]]
    assert len(names) > 40
    assert set(names) <= known_methods()[version]
    dispatcher = Dispatcher(services())
    number = list(Versions).index(version)
    for method in names:
        if method in REGISTRY.names(version):
            continue
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": []})
        status, answer = await dispatcher.http(number, body)
        assert (status, json.loads(answer)["error"]["code"]) == (200, -32004), method


@pytest.mark.recorded
async def test_arity_is_the_nodes() -> None:
    """What is served takes as many parameters as Lotus says."""
    data = zstandard.ZstdDecompressor().stream_reader(recorded("openrpc/v1-full.json.zst").read_bytes()).read()
    theirs = {method["name"]: len(method["params"]) for method in json.loads(data)["methods"]}
    ours = {m.name: len(m.params) for m in REGISTRY if m.versions & V1 and not m.raw and m.name in theirs}
    assert len(ours) > 5
    assert ours == {name: theirs[name] for name in ours}
