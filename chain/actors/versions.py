"""The table of network upgrades: the network version that each begins, and the actors version that goes with it.

A new actors version is a row here and a file in `chain/actors/bundles/`. The newest version that this release
decodes is the newest row's. Source: Lotus `chain/consensus/filcns/upgrades.go`, go-state-types `actors/version.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chain.errors import ChainError, NotHeld


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A network upgrade; `name` is Lotus', as in `Upgrade…Height`."""

    name: str
    network_version: int
    actors_version: int


#: In the order of Lotus' `ForkUpgradeParams`.
UPGRADES: Final = (
    Upgrade("Smoke", 2, 0),
    Upgrade("Breeze", 1, 0),
    Upgrade("Ignition", 3, 0),
    Upgrade("Assembly", 4, 2),
    Upgrade("Tape", 5, 2),
    Upgrade("Kumquat", 6, 2),
    Upgrade("Calico", 7, 2),
    Upgrade("Persian", 8, 2),
    Upgrade("Orange", 9, 2),
    Upgrade("Trust", 10, 3),
    Upgrade("Norwegian", 11, 3),
    Upgrade("Turbo", 12, 4),
    Upgrade("Hyperdrive", 13, 5),
    Upgrade("Chocolate", 14, 6),
    Upgrade("OhSnap", 15, 7),
    Upgrade("Skyr", 16, 8),
    Upgrade("Shark", 17, 9),
    Upgrade("Hygge", 18, 10),
    Upgrade("Lightning", 19, 11),
    Upgrade("Thunder", 20, 11),
    Upgrade("Watermelon", 21, 12),
    Upgrade("Dragon", 22, 13),
    Upgrade("Waffle", 23, 14),
    Upgrade("Tuktuk", 24, 15),
    Upgrade("Teep", 25, 16),
    Upgrade("Tock", 26, 16),
    Upgrade("GoldenWeek", 27, 17),
    Upgrade("FireHorse", 28, 18),
    Upgrade("Xx", 29, 19),
)

#: the actors versions whose states and parameters are decoded
FIRST_VERSION: Final = 9
LAST_VERSION: Final = max(upgrade.actors_version for upgrade in UPGRADES)
#: the newest network version that this release knows
LAST_NETWORK_VERSION: Final = max(upgrade.network_version for upgrade in UPGRADES)

_ACTORS: Final = {0: 0} | {upgrade.network_version: upgrade.actors_version for upgrade in UPGRADES}


class BadNetworkVersion(ChainError, ValueError):
    """A network version that no actors version goes with; the text is Lotus' own."""


class UnknownActors(NotHeld):
    """A state of an actors version that is newer than this release."""

    def __init__(self, version: int, network_version: int | None = None) -> None:
        of = "" if network_version is None else f"of network version {network_version}; "
        decoded = f"{of}this release decodes versions {FIRST_VERSION} to {LAST_VERSION}"
        super().__init__(f"actors version {version} ({decoded})")
        self.version = version


def actors_version(network_version: int) -> int:
    """The actors version of a network version. Errors: BadNetworkVersion."""
    found = _ACTORS.get(network_version)
    if found is None:
        raise BadNetworkVersion(f"unsupported network version {network_version}")
    return found


def unknown_actors(network_version: int) -> UnknownActors:
    """The error for actors that are newer than the table.

    Their version is counted on from the newest one, as each upgrade since network version 27 brought one. A
    network version that the table has says only that the network's schedule is out of date.
    """
    ahead = network_version - LAST_NETWORK_VERSION
    return UnknownActors(LAST_VERSION + max(1, ahead), network_version if ahead > 0 else None)
