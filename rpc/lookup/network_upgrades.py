"""Lotus' names of the network upgrades, and the heights at which a network has them."""

from __future__ import annotations

from typing import Final

from chain.actors.versions import UPGRADES
from chain.known_networks import MAINNET
from chain.network import NetworkRecord

#: Mainnet's heights of upgrades without a network version, by the upgrade before them in Lotus' list.
_WITHOUT_VERSION: Final = {
    "Ignition": ("UpgradeLiftoffHeight", 148888),
    "Assembly": ("UpgradeRefuelHeight", 130800),
    "Kumquat": ("BreezeGasTampingDuration", 120),
    "Orange": ("UpgradeClausHeight", 343200),
    "Dragon": ("UpgradePhoenixHeight", 3855480),
}
#: the network of Lotus' integration tests
_TEST_KIT: Final = "testing"
#: Lotus' height of an upgrade without a date
_NEVER: Final = 9_999_999_999


def fork_heights(network: NetworkRecord) -> dict[str, int]:
    """Lotus' `ForkUpgradeParams` as far as the upgrade schedule tells them.

    An upgrade that the network began with is at -1. Those that change no network version stand in no
    schedule: mainnet's are known; elsewhere they are given as there from the start.

    A node of Lotus' own test kit (network "testing") is built with mainnet's constants, and tells them whatever
    schedule it runs; only Assembly is marked as past (`itests/kit/ensemble.go`).
    """
    kit = network.name == _TEST_KIT
    schedule = MAINNET if kit else network
    heights: dict[str, int] = {}
    for upgrade in UPGRADES:
        reached = [height for height, begins in schedule.upgrades if begins >= upgrade.network_version]
        heights[f"Upgrade{upgrade.name}Height"] = min(reached) if reached else _NEVER
        if upgrade.name in _WITHOUT_VERSION:
            name, on_mainnet = _WITHOUT_VERSION[upgrade.name]
            heights[name] = on_mainnet if schedule.name == MAINNET.name else -1
    heights["BreezeGasTampingDuration"] = 120
    if kit:
        heights["UpgradeAssemblyHeight"] = -1
    return heights
