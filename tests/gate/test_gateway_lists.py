"""Every method of lotus-gateway's lists is answered: here, or by a full node."""

from __future__ import annotations

import orjson
import pytest

from rpc.errors import METHOD_NOT_FOUND, NOT_SERVED
from rpc.known import known_methods
from rpc.methods import register_all
from rpc.permissions import ALL_PERMISSIONS
from rpc.registry import REGISTRY, V0, V1, V2, Registry, Versions
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from tests.docs.gateway_table import GATEWAY_LISTS, gateway_methods, missing
from tests.support.wire_node import services

register_all()


def test_the_lists_are_those_of_a_gateway() -> None:
    assert {version: len(gateway_methods(version)) for version in GATEWAY_LISTS} == {V0: 46, V1: 109, V2: 50}


def test_none_is_missing() -> None:
    assert missing() == []
    # and the check can fail
    assert len(missing(Registry())) == 46 + 109 + 50


@pytest.mark.recorded
@pytest.mark.parametrize("version", GATEWAY_LISTS)
async def test_each_is_known_to_the_wire(version: Versions) -> None:
    dispatcher = Dispatcher(services(), settings=ServerSettings(default_permissions=ALL_PERMISSIONS))
    path = {V0: 0, V1: 1, V2: 2}[version]
    listed = set(gateway_methods(version))
    aliases = {
        alias
        for alias in known_methods()[version]
        if "." not in alias and alias in REGISTRY.names(version) and REGISTRY.names(version)[alias].name in listed
    }
    assert version is V0 or len(aliases) > 15
    for name in sorted(listed | aliases):
        if REGISTRY.names(version)[name].channel:
            continue  # a channel needs a WebSocket; over HTTP Lotus says "method not found" too
        # one parameter too many for any of them: nothing is run
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": [{}] * 12})
        answer = orjson.loads((await dispatcher.http(path, body))[1])
        assert answer["error"]["code"] not in (METHOD_NOT_FOUND, NOT_SERVED), (name, answer)
