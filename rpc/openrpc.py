"""The OpenRPC document, made from the registry. Source: https://spec.open-rpc.org (1.2.6, as Lotus says)."""

from __future__ import annotations

import types
import typing
from functools import lru_cache
from typing import Annotated, Any, Final

from blockstore.cid import Cid
from chain.address import Address
from chain.tipset import TipsetKey
from rpc.registry import Method, Registry, Versions

_CID_SCHEMA: Final[dict[str, Any]] = {
    "title": "Cid",
    "type": "object",
    "properties": {"/": {"type": "string"}},
    "required": ["/"],
    "additionalProperties": False,
}
_SCHEMAS: Final[dict[Any, dict[str, Any]]] = {
    int: {"title": "number", "type": "integer"},
    float: {"title": "number", "type": "number"},
    bool: {"title": "bool", "type": "boolean"},
    str: {"title": "string", "type": "string"},
    bytes: {"title": "bytes", "type": "string", "contentEncoding": "base64"},
    Cid: _CID_SCHEMA,
    Address: {"title": "Address", "type": "string"},
    TipsetKey: {"title": "TipSetKey", "type": ["array", "null"], "items": _CID_SCHEMA},
    Any: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
}


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON schema of an annotation; `{}` (anything) for what says nothing about its form."""
    if annotation.__hash__ is not None and annotation in _SCHEMAS:
        return _SCHEMAS[annotation]
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        go = next((extra.go for extra in arguments[1:] if hasattr(extra, "go")), "")
        if go.startswith("ethtypes.") or go == "big.Int":
            return {"title": go, "type": "string"}
        return {**schema_of(arguments[0]), **({"title": go} if go else {})}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(argument) for argument in arguments]}
    return {}


def _described(method: Method, name: str) -> dict[str, Any]:
    summary, _, rest = method.doc.partition("\n")
    entry: dict[str, Any] = {
        "name": name,
        "summary": summary,
        "paramStructure": "by-position",
        "params": [
            {
                "name": param.name,
                "description": param.go,
                "required": True,
                "schema": schema_of(param.annotation),
            }
            for param in method.params
        ],
        "result": {"name": "result", "required": True, "schema": schema_of(_result(method))},
        "deprecated": False,
        "x-permission": method.perm,
        "x-cost": method.cost.value,
        "x-answered": method.answered,
    }
    if rest.strip():
        entry["description"] = rest.strip()
    if method.raw:
        entry["params"] = []
        entry["paramStructure"] = "either"
    if method.channel:
        entry["x-channel"] = True
    if method.aliases:
        entry["x-aliases"] = list(method.aliases)
    return entry


def _result(method: Method) -> Any:
    if method.channel:
        arguments = typing.get_args(method.returns)
        return arguments[0] if arguments else Any
    return method.returns


@lru_cache(maxsize=8)
def document(registry: Registry, version: Versions, software: str) -> dict[str, Any]:
    """The document of one API version, methods in order of their names. Shared: not to be changed."""
    methods = {m.name: m for m in registry if m.versions & version}
    return {
        "openrpc": "1.2.6",
        "info": {"title": f"Filecoin follower RPC API {(version.name or '').lower()}", "version": software},
        "methods": [_described(method, name) for name, method in sorted(methods.items())],
    }
