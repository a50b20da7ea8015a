"""A miner with very many sectors, as the largest ones of a network have: its sectors and its deadlines.

Partitions are as full as they may be (2,349 sectors of 32 GiB) and go round the 48 deadlines. Every second place of a
pair of partitions is the other one's, so that their bitfields have as many runs as they can have; two of ten sectors
are faulty, two of a hundred terminated. Nothing of it changes with the epochs.
Sources: go-state-types `builtin/v16/miner` (types, bit widths), FIP-0108 (what the newest fields are).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from blockstore.cid import Cid
from chain.actors.miner_state import DEADLINES
from chain.ipld import bitfield
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.ipld.tree_nodes import Put, Raw
from devnode.sim_holdings import stored

SECTOR_BYTES: Final = 32 << 30
#: sectors of 32 GiB in a partition
PARTITION: Final = 2349
_SECTORS_BITS: Final = 5
#: pledges of a sector: attoFIL
_PLEDGE: Final = 2 * 10**17
_DAILY_FEE: Final = 10**12
_EXPIRES: Final = 1_500_000

#: writes an array of a bit width
WriteAmt = Callable[[Put, Sequence[Any] | Mapping[int, Any], int], Cid]


def sector(number: int, sealed: Cid, fee: int = _DAILY_FEE) -> bytes:
    """One sector as it stands in the array of sectors."""
    return encode(
        [
            number, 8, sealed, [], 10, _EXPIRES, b"", b"", encode_bigint(_PLEDGE),
            None, None, 10, None, None, 1, encode_bigint(fee),
        ]
    )  # fmt: skip


def _gone(number: int) -> bool:
    return number % 100 < 2


def _faulty(number: int) -> bool:
    return number % 10 < 2


def working_sectors(count: int) -> int:
    """How many of the sectors prove that they store: neither terminated nor faulty."""
    return sum(not _gone(number) and not _faulty(number) for number in range(count))


def _power(sectors: int) -> list[bytes]:
    return [encode_bigint(sectors * SECTOR_BYTES)] * 2


def _members(partition: int, count: int) -> list[int]:
    """The sectors of a partition: every second number of what it and its neighbour share."""
    first = partition // 2 * 2 * PARTITION
    return [one for one in range(first + partition % 2, first + 2 * PARTITION, 2) if one < count]


def large_miner(put: Put, count: int, write_amt: WriteAmt, sealed: Callable[[int], Cid]) -> tuple[Cid, Cid, Cid]:
    """(array of sectors, deadlines, sector numbers ever used) of a miner with sectors 0 to `count` - 1.

    `sealed` makes the commitment to a sector.
    """
    empty = {width: write_amt(put, [], width) for width in (2, 3, 4, 5)}
    sectors = write_amt(put, [Raw(sector(number, sealed(number))) for number in range(count)], _SECTORS_BITS)
    by_deadline: list[list[list[Any]]] = [[] for _ in range(DEADLINES)]
    totals = [[0, 0] for _ in range(DEADLINES)]
    partitions = -(-count // (2 * PARTITION)) * 2
    for partition in range(partitions):
        members = _members(partition, count)
        if not members:
            continue
        gone = [one for one in members if _gone(one)]
        live = [one for one in members if not _gone(one)]
        faulty = [one for one in live if _faulty(one)]
        expiring = [bitfield.from_bits(live), b"", encode_bigint(len(live) * _PLEDGE)]
        queue = {_EXPIRES: [*expiring, _power(len(live) - len(faulty)), _power(len(faulty)), encode_bigint(0)]}
        deadline = partition % DEADLINES
        by_deadline[deadline].append(
            [
                bitfield.from_bits(members), b"", bitfield.from_bits(faulty), b"", bitfield.from_bits(gone),
                write_amt(put, queue, 4), empty[3], _power(len(live)), [b"", b""], _power(len(faulty)), [b"", b""],
            ]
        )  # fmt: skip
        totals[deadline][0] += len(live)
        totals[deadline][1] += len(members)
    links = []
    for found, (live_count, all_count) in zip(by_deadline, totals, strict=True):
        raw = encode(
            [
                write_amt(put, found, 3), empty[5], b"", b"", live_count, all_count, [b"", b""], empty[2], empty[5],
                empty[3], empty[2], _power(live_count), encode_bigint(live_count * _DAILY_FEE),
            ]
        )  # fmt: skip
        links.append(stored(put, raw))
    used = encode(bitfield.from_runs([0, count]))
    return sectors, stored(put, encode([links])), stored(put, used)
