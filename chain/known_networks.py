"""The networks that everybody knows, by their genesis: what a CAR of them cannot tell is told here.

Facts from Lotus `build/buildconstants/params_mainnet.go`, `params_calibnet.go` (heights, chain IDs) and
`chain/consensus/filcns/upgrades.go` (versions; an upgrade at a negative height never happens). An upgrade
whose epoch is not set yet is left out.
"""

from __future__ import annotations

from typing import Final

from blockstore.cid import Cid, parse
from chain.network import NetworkRecord

_EPOCHS_IN_HOUR: Final = 120
_EPOCHS_IN_DAY: Final = 2880

MAINNET: Final = NetworkRecord(
    name="mainnet",
    genesis=parse("bafy2bzacecnamqgqmifpluoeldx7zzglxcljo6oja4vrmtj7432rphldpdmm2"),
    address_prefix="f",
    eth_chain_id=314,
    block_delay=30,
    upgrades=(
        (-1, 0),
        (41280, 1),  # Breeze
        (51000, 2),  # Smoke
        (94000, 3),  # Ignition, and Refuel at 130800
        (138720, 4),  # Assembly
        (140760, 5),  # Tape, and Liftoff at 148888
        (170000, 6),  # Kumquat
        (265200, 7),  # Calico
        (265200 + 60 * _EPOCHS_IN_HOUR, 8),  # Persian
        (336458, 9),  # Orange
        (550321, 10),  # Trust
        (665280, 11),  # Norwegian
        (712320, 12),  # Turbo
        (892800, 13),  # Hyperdrive
        (1231620, 14),  # Chocolate
        (1594680, 15),  # OhSnap
        (1960320, 16),  # Skyr
        (2383680, 17),  # Shark
        (2683348, 18),  # Hygge
        (2809800, 19),  # Lightning
        (2809800 + 21 * _EPOCHS_IN_DAY, 20),  # Thunder
        (3469380, 21),  # Watermelon
        (3855360, 22),  # Dragon
        (4154640, 23),  # Waffle
        (4461240, 24),  # Tuktuk
        (4878840, 25),  # Teep
        (4878840 + 90 * _EPOCHS_IN_DAY, 26),  # Tock
        (5348280, 27),  # GoldenWeek
        (6052800, 28),  # FireHorse
    ),
)

CALIBNET: Final = NetworkRecord(
    name="calibrationnet",
    genesis=parse("bafy2bzacecyaggy24wol5ruvs6qm73gjibs2l2iyhcqmvi7r7a4ph7zx3yqd4"),
    address_prefix="t",
    eth_chain_id=314159,
    block_delay=30,
    upgrades=(
        (-1, 0),
        (30, 4),  # Assembly; Breeze to Refuel never happened
        (60, 5),  # Tape
        (90, 6),  # Kumquat
        (120, 7),  # Calico
        (120 + _EPOCHS_IN_HOUR, 8),  # Persian
        (300, 9),  # Orange
        (330, 10),  # Trust
        (360, 11),  # Norwegian
        (390, 12),  # Turbo
        (420, 13),  # Hyperdrive
        (450, 14),  # Chocolate
        (480, 15),  # OhSnap
        (510, 16),  # Skyr
        (16800, 17),  # Shark
        (322354, 18),  # Hygge
        (489094, 19),  # Lightning
        (489094 + 3120, 20),  # Thunder
        (1013134, 21),  # Watermelon, and its fixes
        (1427974, 22),  # Dragon
        (1779094, 23),  # Waffle
        (2078794, 24),  # Tuktuk
        (2523454, 25),  # Teep
        (2523454 + 7 * _EPOCHS_IN_DAY, 26),  # Tock
        (3007294, 27),  # GoldenWeek
        (3694534, 28),  # FireHorse
    ),
)

_BY_GENESIS: Final = {network.genesis: network for network in (MAINNET, CALIBNET)}


def known_network(genesis: Cid) -> NetworkRecord | None:
    """The well-known network with this genesis block, or None."""
    return _BY_GENESIS.get(genesis)
