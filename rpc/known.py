"""The methods that the node has, served here or not: so that a client is told which of the two it is.

`known_methods.json` was made from the OpenRPC documents of Lotus (v1, v2; full node and gateway), its v0
interface and its table of aliases.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from rpc.registry import V0, V1, V2, Versions


@cache
def known_methods() -> dict[Versions, frozenset[str]]:
    """Names and aliases under each API version."""
    table = json.loads(files("rpc").joinpath("known_methods.json").read_text())
    found: dict[Versions, frozenset[str]] = {}
    under = {V0: table["v1"] + table["v0_only"], V1: table["v1"], V2: table["v2"]}
    for version, names in under.items():
        aliases = {alias for alias, name in table["aliases"].items() if name in names}
        found[version] = frozenset(names) | aliases
    return found
