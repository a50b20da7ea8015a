"""Lotus' names of the network upgrades, and the heights at which a network has them."""

from __future__ import annotations

from typing import Final

from chain.known_networks import MAINNET
from chain.network import NetworkRecord

#: In Lotus' order: the network version that an upgrade begins; for those that change none, mainnet's height.
_FORKS: Final[tuple[tuple[str, int | None, int], ...]] = (
    ("UpgradeSmokeHeight", 2, 0),
    ("UpgradeBreezeHeight", 1, 0),
    ("UpgradeIgnitionHeight", 3, 0),
    ("UpgradeLiftoffHeight", None, 148888),
    ("UpgradeAssemblyHeight", 4, 0),
    ("UpgradeRefuelHeight", None, 130800),
    ("UpgradeTapeHeight", 5, 0),
    ("UpgradeKumquatHeight", 6, 0),
    ("BreezeGasTampingDuration", None, 120),
    ("UpgradeCalicoHeight", 7, 0),
    ("UpgradePersianHeight", 8, 0),
    ("UpgradeOrangeHeight", 9, 0),
    ("UpgradeClausHeight", None, 343200),
    ("UpgradeTrustHeight", 10, 0),
    ("UpgradeNorwegianHeight", 11, 0),
    ("UpgradeTurboHeight", 12, 0),
    ("UpgradeHyperdriveHeight", 13, 0),
    ("UpgradeChocolateHeight", 14, 0),
    ("UpgradeOhSnapHeight", 15, 0),
    ("UpgradeSkyrHeight", 16, 0),
    ("UpgradeSharkHeight", 17, 0),
    ("UpgradeHyggeHeight", 18, 0),
    ("UpgradeLightningHeight", 19, 0),
    ("UpgradeThunderHeight", 20, 0),
    ("UpgradeWatermelonHeight", 21, 0),
    ("UpgradeDragonHeight", 22, 0),
    ("UpgradePhoenixHeight", None, 3855480),
    ("UpgradeWaffleHeight", 23, 0),
    ("UpgradeTuktukHeight", 24, 0),
    ("UpgradeTeepHeight", 25, 0),
    ("UpgradeTockHeight", 26, 0),
    ("UpgradeGoldenWeekHeight", 27, 0),
    ("UpgradeFireHorseHeight", 28, 0),
    ("UpgradeXxHeight", 29, 0),
)

#: the network of Lotus' integration tests
_TEST_KIT: Final = "testing"
#: what Lotus sets for an upgrade that is not planned yet
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
    for name, wanted, on_mainnet in _FORKS:
        if wanted is None:
            heights[name] = on_mainnet if schedule.name == MAINNET.name else -1
            continue
        reached = [height for height, begins in schedule.upgrades if begins >= wanted]
        heights[name] = min(reached) if reached else _NEVER
    heights["BreezeGasTampingDuration"] = 120
    if kit:
        heights["UpgradeAssemblyHeight"] = -1
    return heights
