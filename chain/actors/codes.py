"""Finds the actor kind and the actors version of a code CID.

Two sources. The bundles that Lotus embeds (`bundles/`) say it for every network that Lotus knows, with no read:
they also answer for versions that a chain has passed or not reached, which no state can tell. For a network of
its own the manifest that a state's system actor links to gives the kind, and the network version gives the actors
version. A code of a newer actors version than this release decodes is refused, whoever tells of it.
Source: Lotus `build/builtin_actors_gen.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

import orjson

from blockstore.cid import RAW, Cid, cid_of, parse
from chain.actors.versions import LAST_NETWORK_VERSION, LAST_VERSION, UnknownActors, unknown_actors
from chain.known_networks import known_network
from chain.network import NetworkRecord

#: the first actors version whose codes a manifest lists
FIRST_WITH_MANIFEST: Final = 8
#: the actors before it
_NAMED: Final = (
    "account", "cron", "init", "storagemarket", "storageminer", "multisig", "paymentchannel", "storagepower",
    "reward", "system", "verifiedregistry",
)  # fmt: skip
#: The head of an actor without state: an empty CBOR array.
EMPTY_OBJECT: Final = cid_of(b"\x80")


@dataclass(frozen=True, slots=True)
class Bundle:
    """The actors of one version on one network; `actors` is code CID by manifest name."""

    network: str
    version: int
    manifest: Cid
    actors: dict[str, Cid]


@cache
def bundles() -> tuple[Bundle, ...]:
    """Every bundle that Lotus embeds."""
    found = []
    for file in resources.files("chain.actors.bundles").iterdir():
        if file.name.endswith(".json"):
            networks: dict[str, Any] = orjson.loads(file.read_bytes())
            found += [_bundle(network, int(file.name[1:-5]), entry) for network, entry in networks.items()]
    return tuple(sorted(found, key=lambda bundle: (bundle.network, bundle.version)))


def _bundle(network: str, version: int, entry: dict[str, Any]) -> Bundle:
    codes = {name: parse(code) for name, code in entry["actors"].items()}
    return Bundle(network, version, parse(entry["manifest"]), codes)


@cache
def _known() -> dict[bytes, tuple[str, int]]:
    known: dict[bytes, tuple[str, int]] = {}
    for bundle in bundles():
        for name, code in bundle.actors.items():
            # Lotus registers versions in order: a shared code belongs to the newer one
            if bundle.version >= known.get(code, ("", -1))[1]:
                known[code] = (name, bundle.version)
    return known


def known_code(code: bytes) -> tuple[str, int] | None:
    """(manifest name, actors version) of a code CID that Lotus knows."""
    return _known().get(code)


def builtin_codes(version: int) -> dict[str, Cid]:
    """The code of each actor before actors 8, when a code was a name: "fil/1/account". `version`: 0, 2 to 7."""
    return {name: _named(f"fil/{max(version, 1)}/{name}") for name in _NAMED}


def _named(text: str) -> Cid:
    data = text.encode()
    return Cid(bytes((1, RAW, 0, len(data))) + data)


def check_code(network: NetworkRecord, epoch: int, code: Cid) -> None:
    """Refuse the code of an actor in a state at `epoch` if its actors version is newer than this release.

    So are codes that no bundle has under a network version that this release does not know; and on mainnet and
    calibnet also under the last version of the network's schedule, for Lotus embeds their bundles. Errors:
    UnknownActors.
    """
    known = known_code(code)
    if known is not None:
        if known[1] > LAST_VERSION:
            raise UnknownActors(known[1])
        return
    version = network.version_at(epoch)
    is_last = version == network.upgrades[-1][1] and not code.is_identity
    if version > LAST_NETWORK_VERSION or (is_last and known_network(network.genesis) is not None):
        raise unknown_actors(version)


@lru_cache(maxsize=1024)
def networks_of(code: bytes) -> frozenset[str]:
    """The bundle networks that have a code CID. More than one if their builds are alike."""
    return frozenset(bundle.network for bundle in bundles() if code in bundle.actors.values())


def bundle_of(network: str, version: int) -> Bundle | None:
    """A network's bundle of one actors version."""
    for bundle in bundles():
        if bundle.network == network and bundle.version == version:
            return bundle
    return None
