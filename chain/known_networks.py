"""The public networks: what a store of them need not be told. Source: Lotus `build/buildconstants`.

Heights below 0 and versions before the first that is in force at genesis are left out.
"""

from __future__ import annotations

from typing import Final

from blockstore.cid import Cid, parse
from chain.network import NetworkRecord

_DAY: Final = 2880
_HOUR: Final = 120

MAINNET: Final = NetworkRecord(
    name="mainnet",
    genesis=parse("bafy2bzacecnamqgqmifpluoeldx7zzglxcljo6oja4vrmtj7432rphldpdmm2"),
    address_prefix="f",
    eth_chain_id=314,
    block_delay=30,
    upgrades=(
        (-1, 0),
        (41280, 1),
        (51000, 2),
        (94000, 3),
        (138720, 4),
        (140760, 5),
        (170000, 6),
        (265200, 7),
        (265200 + 60 * _HOUR, 8),
        (336458, 9),
        (550321, 10),
        (665280, 11),
        (712320, 12),
        (892800, 13),
        (1231620, 14),
        (1594680, 15),
        (1960320, 16),
        (2383680, 17),
        (2683348, 18),
        (2809800, 19),
        (2809800 + 21 * _DAY, 20),
        (3469380, 21),
        (3855360, 22),
        (4154640, 23),
        (4461240, 24),
        (4878840, 25),
        (4878840 + 90 * _DAY, 26),
        (5348280, 27),
        (6052800, 28),
    ),
)

CALIBNET: Final = NetworkRecord(
    name="calibrationnet",
    genesis=parse("bafy2bzacecyaggy24wol5ruvs6qm73gjibs2l2iyhcqmvi7r7a4ph7zx3yqd4"),
    address_prefix="t",
    eth_chain_id=314159,
    block_delay=30,
    upgrades=(
        (-1, 3),
        (30, 4),
        (60, 5),
        (90, 6),
        (120, 7),
        (120 + _HOUR, 8),
        (300, 9),
        (330, 10),
        (360, 11),
        (390, 12),
        (420, 13),
        (450, 14),
        (480, 15),
        (510, 16),
        (16800, 17),
        (322354, 18),
        (489094, 19),
        (489094 + 3120, 20),
        (1013134, 21),
        (1427974, 22),
        (1779094, 23),
        (2078794, 24),
        (2523454, 25),
        (2523454 + 7 * _DAY, 26),
        (3007294, 27),
        (3694534, 28),
    ),
)

BY_GENESIS: Final[dict[Cid, NetworkRecord]] = {record.genesis: record for record in (MAINNET, CALIBNET)}
