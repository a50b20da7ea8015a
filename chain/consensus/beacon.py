"""Randomness of the chain: which beacon round belongs to an epoch, and what is drawn from it.

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

#: tipsets searched back for an entry: networks whose blocks come faster than the beacon
_SEARCH: Final = 20


class NoRandomness(ChainError):
    """Randomness of the future, or an entry that no block near the epoch carries."""


@dataclass(frozen=True, slots=True)
class Drand:
    """A drand network from epoch `start` on: seconds a round, and its first second."""

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
        (Drand(0, *_INCENTINET), Drand(51000, *_DRAND_MAINNET), Drand(3855360 + 120, *_QUICKNET)),
    ),
    CALIBNET.genesis: (1667326380, (Drand(0, *_DRAND_MAINNET), Drand(1427974 + 120, *_QUICKNET))),
}


def beacon_round(network: NetworkRecord, epoch: int) -> int | None:
    """The round whose entry belongs to an epoch; None on a network whose beacon is not known here."""
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
    """The entry of a round; where rounds are not known, the one so many epochs before the block's last."""
    if round_ is not None:
        return next((entry for entry in block.beacon_entries if entry[0] == round_), None)
    at = len(block.beacon_entries) - 1 - epochs_before_end
    return block.beacon_entries[at] if at >= 0 else None


async def beacon_entry(index: ChainIndex, network: NetworkRecord, head: Tipset, epoch: int) -> tuple[int, bytes]:
    """(round, data) of the beacon entry of an epoch on the chain of `head`.

    Errors: NoRandomness (of the future, or none found), NotHeld.
    """
    if epoch > head.height:
        raise NoRandomness("cannot draw randomness from the future")
    version = network.version_at(epoch)
    tipset = await index.at_height(head, max(epoch, 0), previous=version < 13)
    if version < 14 or epoch < 0:
        return await _latest_entry(index, tipset)
    round_ = beacon_round(network, epoch)
    before_end = tipset.height - epoch
    for _ in range(_SEARCH):
        found = _entry_for(tipset.blocks[0], round_, before_end)
        if found is not None:
            return found
        if tipset.height == 0:
            break
        before_end -= len(tipset.blocks[0].beacon_entries)
        tipset = await index.parent(tipset)
    raise NoRandomness(f"didn't find beacon for round {round_ or 0} (epoch {epoch})")


async def _latest_entry(index: ChainIndex, tipset: Tipset) -> tuple[int, bytes]:
    for _ in range(_SEARCH):
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
    return digest(tipset.blocks[0].ticket or b"")


def digest(data: bytes) -> bytes:
    """blake2b-256."""
    return hashlib.blake2b(data, digest_size=32).digest()


def draw(base: bytes, personalization: int, epoch: int, entropy: bytes) -> bytes:
    """32 bytes for one purpose from a 32-byte digest. `personalization` is a domain separation tag."""
    hasher = hashlib.blake2b(digest_size=32)
    hasher.update(personalization.to_bytes(8, "big", signed=True))
    hasher.update(base)
    hasher.update(epoch.to_bytes(8, "big", signed=True))
    hasher.update(entropy)
    return hasher.digest()
