"""Which actor kind and actors version a code CID is.

Two sources. The bundles that Lotus embeds (`bundles.json.zst`: network, actors version, manifest, code by
name) say it for every network that Lotus knows, with no read: they also answer for versions that a chain has
passed or not reached, which no state can tell. For a network of its own the manifest that a state's system
actor links to gives the kind, and the network version gives the actors version.
Source: Lotus `build/builtin_actors_gen.go`, go-state-types `actors/version.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

import orjson
import zstandard

from blockstore.cid import Cid, cid_of, parse
from chain.errors import ChainError

#: The head of an actor without state: an empty CBOR array.
EMPTY_OBJECT: Final = cid_of(b"\x80")

#: the actors versions, by the network versions that each goes with
_ACTORS: Final = {
    network: actors
    for actors, networks in (
        (0, range(4)),
        (2, range(4, 10)),
        (3, range(10, 12)),
        (11, range(19, 21)),
        (16, range(25, 27)),
        *((actors, (actors + 8,)) for actors in range(4, 11)),
        *((actors, (actors + 9,)) for actors in range(12, 16)),
        *((actors, (actors + 10,)) for actors in range(17, 20)),
    )
    for network in networks
}


class BadNetworkVersion(ChainError, ValueError):
    """A network version that no actors version goes with."""


def actors_version(network_version: int) -> int:
    """The actors version of a network version. Errors: BadNetworkVersion."""
    found = _ACTORS.get(network_version)
    if found is None:
        raise BadNetworkVersion(f"unsupported network version {network_version}")
    return found


@dataclass(frozen=True, slots=True)
class Bundle:
    """The actors of one version on one network; `actors` is code CID by manifest name."""

    network: str
    version: int
    manifest: Cid
    actors: dict[str, Cid]


@cache
def bundles() -> tuple[Bundle, ...]:
    """Every bundle that Lotus embeds, in its order."""
    packed = resources.files("chain.actors").joinpath("bundles.json.zst").read_bytes()
    listed: list[dict[str, Any]] = orjson.loads(zstandard.ZstdDecompressor().decompress(packed))
    return tuple(
        Bundle(
            network=entry["network"],
            version=entry["version"],
            manifest=parse(entry["manifest"]),
            actors={name: parse(code) for name, code in entry["actors"].items()},
        )
        for entry in listed
    )


@cache
def _known() -> dict[bytes, tuple[str, int]]:
    known: dict[bytes, tuple[str, int]] = {}
    for bundle in bundles():
        for name, code in bundle.actors.items():
            # a code that two versions share is the newer one's, as in Lotus: it registers them in order
            if bundle.version >= known.get(code, ("", -1))[1]:
                known[code] = (name, bundle.version)
    return known


def known_code(code: bytes) -> tuple[str, int] | None:
    """(manifest name, actors version) of a code CID that Lotus knows."""
    return _known().get(code)


@lru_cache(maxsize=1024)
def networks_of(code: bytes) -> frozenset[str]:
    """The bundle networks in which a code CID occurs: one, but for code that several are built alike with."""
    return frozenset(bundle.network for bundle in bundles() if code in bundle.actors.values())


def bundle_of(network: str, version: int) -> Bundle | None:
    """A network's bundle of one actors version."""
    for bundle in bundles():
        if bundle.network == network and bundle.version == version:
            return bundle
    return None
