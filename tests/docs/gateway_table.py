"""The table of lotus-gateway's methods in docs/methods.md: how a follower answers each. From recorded OpenRPC lists."""

from __future__ import annotations

from typing import Final

import orjson
import zstandard

from rpc.registry import REGISTRY, V0, V1, V2, Registry, Versions
from tests.support.recorded import recorded

GATEWAY_LISTS: Final = {
    V0: "openrpc/v0-gateway.json.zst",
    V1: "openrpc/v1-gateway.json.zst",
    V2: "openrpc/v2-gateway.json.zst",
}
#: what a follower without a full node does with each kind
_WITHOUT_NODE: Final = {
    "executed": "the virtual machine, else error -32010",
    "forwarded": "error -32010",
}


def gateway_methods(version: Versions) -> list[str]:
    """The names in lotus-gateway's list for an API version."""
    with recorded(GATEWAY_LISTS[version]).open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
        document = orjson.loads(raw.read())
    return sorted(method["name"] for method in document["methods"])


def missing(registry: Registry = REGISTRY) -> list[str]:
    """The methods of the lists that the registry lacks."""
    return [
        f"{name} under /rpc/{(version.name or '').lower()}"
        for version in GATEWAY_LISTS
        for name in gateway_methods(version)
        if name not in registry.names(version)
    ]


def gateway_table(registry: Registry = REGISTRY) -> list[str]:
    """Lines of the table. Errors: KeyError (a method is missing)."""
    found: dict[str, dict[Versions, str]] = {}
    for version in GATEWAY_LISTS:
        for name in gateway_methods(version):
            found.setdefault(name, {})[version] = registry.names(version)[name].answered
    counts = ", ".join(
        f"{len(gateway_methods(version))} in {(version.name or '').lower()}" for version in GATEWAY_LISTS
    )
    lines = [
        f"lotus-gateway lists {counts}. A follower answers each of them:",
        "",
        "| method | v0 | v1 | v2 | without a full node |",
        "|---|---|---|---|---|",
    ]
    for name, how in sorted(found.items()):
        cells = " | ".join(how.get(version, "") for version in GATEWAY_LISTS)
        without = sorted({_WITHOUT_NODE.get(one, "the same") for one in how.values()})
        lines.append(f"| `{name}` | {cells} | {'; '.join(without)} |")
    return lines
