"""Randomness of the chain: the beacon round of an epoch, and the randomness drawn from its entry.

Sources: Lotus `chain/rand/rand.go`, `chain/beacon/drand/drand.go`, `build/buildconstants/drand.go`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from chain.block import BlockHeader
from chain.errors import ChainError
from chain.index.chain_index import ChainIndex
from chain.known_networks import CALIBNET, MAINNET
from chain.network import NetworkRecord
from chain.tipset import Tipset

#: how many tipsets to search back for a beacon entry, on networks whose blocks come faster than the beacon
_SEARCH_TIPSETS: Final = 20


class NoRandomness(ChainError):
    """The epoch is above the head, or no block near the epoch carries a beacon entry."""


@dataclass(frozen=True, slots=True)
class DrandNetwork:
    """A drand network, in use from epoch `start` on. `period`: seconds a round; `genesis`: when round 1 starts."""

    start: int
    period: int
    genesis: int


_INCENTINET: Final = (30, 1595873820)
_DRAND_MAINNET: Final = (30, 1595431050)
_QUICKNET: Final = (3, 1692803367)

#: (genesis second of the chain, drand networks) of networks whose schedule is public
_SCHEDULES: Final = {
    MAINNET.genesis: (
        1598306400,
        (DrandNetwork(0, *_INCENTINET), DrandNetwork(51000, *_DRAND_MAINNET), DrandNetwork(3855360 + 120, *_QUICKNET)),
    ),
    CALIBNET.genesis: (1667326380, (DrandNetwork(0, *_DRAND_MAINNET), DrandNetwork(1427974 + 120, *_QUICKNET))),
}


def beacon_round(network: NetworkRecord, epoch: int) -> int | None:
    """The beacon round of an epoch; None for a network whose drand schedule is not in `_SCHEDULES`."""
    schedule = _SCHEDULES.get(network.genesis)
    if schedule is None:
        return None
    genesis, points = schedule
    drand = next(point for point in reversed(points) if epoch >= point.start)
    latest = epoch * network.block_delay + genesis - network.block_delay
    if network.version_at(epoch) <= 15:
        return (latest - drand.genesis) // drand.period
    return 1 if latest < drand.genesis else (latest - drand.genesis) // drand.period + 1


def _entry_for(block: BlockHeader, round_: int | None, epochs_before_end: int) -> tuple[int, bytes] | None:
    """The entry of a round. With `round_` None: the entry that many epochs before the last one of the block."""
    if round_ is not None:
        return next((entry for entry in block.beacon_entries if entry[0] == round_), None)
    at = len(block.beacon_entries) - 1 - epochs_before_end
    return block.beacon_entries[at] if at >= 0 else None


async def beacon_entry(index: ChainIndex, network: NetworkRecord, head: Tipset, epoch: int) -> tuple[int, bytes]:
    """(round, data) of the beacon entry of an epoch on the chain of `head`.

    Errors: NoRandomness (the epoch is above the head, or no entry was found), NotHeld.
    """
    if epoch > head.height:
        raise NoRandomness("cannot draw randomness from the future")
    version = network.version_at(epoch)
    tipset = await index.at_height(head, max(epoch, 0), previous=version < 13)
    if version < 14 or epoch < 0:
        return await _latest_entry(index, tipset)
    round_ = beacon_round(network, epoch)
    before_end = tipset.height - epoch
    for _ in range(_SEARCH_TIPSETS):
        found = _entry_for(tipset.blocks[0], round_, before_end)
        if found is not None:
            return found
        if tipset.height == 0:
            break
        before_end -= len(tipset.blocks[0].beacon_entries)
        tipset = await index.parent(tipset)
    raise NoRandomness(f"didn't find beacon for round {round_ or 0} (epoch {epoch})")


async def _latest_entry(index: ChainIndex, tipset: Tipset) -> tuple[int, bytes]:
    for _ in range(_SEARCH_TIPSETS):
        if tipset.blocks[0].beacon_entries:
            return tipset.blocks[0].beacon_entries[-1]
        if tipset.height == 0:
            raise NoRandomness("made it back to genesis block without finding beacon entry")
        tipset = await index.parent(tipset)
    raise NoRandomness("found NO beacon entries in the 20 latest tipsets")


async def ticket_digest_at(index: ChainIndex, network: NetworkRecord, head: Tipset, epoch: int) -> bytes:
    """The blake2b-256 of the smallest ticket at an epoch. Errors: NoRandomness, NotHeld."""
    if epoch > head.height:
        raise NoRandomness("cannot draw randomness from the future")
    tipset = await index.at_height(head, max(epoch, 0), previous=network.version_at(epoch) < 13)
    return blake2b_256(tipset.blocks[0].ticket or b"")


def blake2b_256(data: bytes) -> bytes:
    """The 32-byte blake2b digest."""
    return hashlib.blake2b(data, digest_size=32).digest()


def draw_randomness(base: bytes, personalization: int, epoch: int, entropy: bytes) -> bytes:
    """Draw 32 bytes of randomness from a 32-byte digest. `personalization`: the domain separation tag."""
    hasher = hashlib.blake2b(digest_size=32)
    hasher.update(personalization.to_bytes(8, "big", signed=True))
    hasher.update(base)
    hasher.update(epoch.to_bytes(8, "big", signed=True))
    hasher.update(entropy)
    return hasher.digest()
