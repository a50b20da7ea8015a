"""The network that a store belongs to: what the chain itself cannot tell.

Source: Lotus `chain/consensus/filcns/upgrades.go` and `chain/stmgr/forks.go` (an upgrade's height is the
last epoch of the version before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from blockstore.cid import Cid, parse
from blockstore.errors import BadCid
from blockstore.store import META, Batch, Store
from chain.errors import BadRequest, ChainError

_KEY: Final = b"network"


@dataclass(slots=True)
class NetworkRecord:
    """`upgrades`: (height, network version), rising; height -1 for what holds from genesis on.

    Shared by all parts of a process. Only `take_upgrades` changes it, ahead of the head: what is true of an epoch that
    a head has reached stays true.
    """

    name: str
    genesis: Cid
    address_prefix: str
    eth_chain_id: int
    block_delay: int
    upgrades: tuple[tuple[int, int], ...]

    def version_at(self, epoch: int) -> int:
        """The network version at an epoch."""
        return version_in(self.upgrades, epoch)

    def take_upgrades(self, newer: NetworkRecord) -> None:
        """Take the upgrade schedule of a newer record of the same store."""
        self.upgrades = newer.upgrades

    def to_json(self) -> dict[str, Any]:
        """The form of `network.json`, and the genesis."""
        return {
            "network_name": self.name,
            "genesis": str(self.genesis),
            "address_prefix": self.address_prefix,
            "eth_chain_id": self.eth_chain_id,
            "block_delay_secs": self.block_delay,
            "upgrades": [{"height": h, "network_version": v} for h, v in self.upgrades],
        }


def network_of(record: dict[str, Any], genesis: Cid | None = None) -> NetworkRecord:
    """A record from its JSON form; `genesis` where the form has none. Errors: BadRequest, naming the key."""
    try:
        named = record.get("genesis")
        if named is not None:
            genesis = parse(named)
        if genesis is None:
            raise BadRequest("network record: 'genesis' is missing")
        upgrades = sorted((int(u["height"]), int(u["network_version"])) for u in record["upgrades"])
        if not upgrades:
            raise BadRequest("network record: 'upgrades' is empty")
        prefix = record["address_prefix"]
        if prefix not in ("f", "t"):
            raise BadRequest(f"network record: 'address_prefix' is {prefix!r}, not 'f' or 't'")
        return NetworkRecord(
            name=str(record["network_name"]),
            genesis=genesis,
            address_prefix=prefix,
            eth_chain_id=int(record["eth_chain_id"]),
            block_delay=int(record["block_delay_secs"]),
            upgrades=tuple(upgrades),
        )
    except KeyError as error:
        raise BadRequest(f"network record: {error} is missing") from None
    except (TypeError, ValueError, BadCid) as error:
        raise BadRequest(f"network record: {error}") from None


def read_network_file(path: Path, genesis: Cid | None = None) -> NetworkRecord:
    """A record from a `network.json`. Errors: BadRequest, OSError."""
    try:
        record = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{path}: {error}") from None
    if not isinstance(record, dict):
        raise BadRequest(f"{path}: not a JSON object")
    return network_of(record, genesis)


async def load_network(store: Store) -> NetworkRecord | None:
    """The network a store belongs to, or None in a new store."""
    value = await store.row(META, b"", _KEY)
    return None if value is None else network_of(orjson.loads(value))


def save_network(batch: Batch, record: NetworkRecord) -> None:
    """Write the record with a batch."""
    batch.put(META, b"", _KEY, orjson.dumps(record.to_json()))


class ScheduleConflict(ChainError):
    """Two sources of the upgrade schedule disagree about an epoch that is served already, or about the head."""


def version_in(upgrades: Sequence[tuple[int, int]], epoch: int) -> int:
    """The network version at an epoch by (height, network version) pairs, rising."""
    version = upgrades[0][1]
    for height, upgraded in upgrades:
        if epoch > height:
            version = upgraded
    return version


def merge_upgrades(record: NetworkRecord, upgrades: Sequence[tuple[int, int]], head: int, source: str) -> NetworkRecord:
    """The record with the upgrades ahead of epoch `head` as `upgrades` has them; later versions of its own stay.

    Upgrades at or below the head are never changed: answers about those epochs were given. `head` -1: nothing was
    published yet. `source` names where `upgrades` come from. Errors: ScheduleConflict, where they say another version
    at the head.
    """
    if head < 0:
        return replace(record, upgrades=tuple(upgrades))
    version, theirs = record.version_at(head), version_in(upgrades, head)
    if version != theirs:
        raise ScheduleConflict(
            f"{source} says network version {theirs} at epoch {head}, the store's upgrade schedule {version}"
        )
    past = [(height, upgraded) for height, upgraded in record.upgrades if height < head]
    ahead = [(height, upgraded) for height, upgraded in upgrades if height >= head]
    newest = max(upgraded for _, upgraded in upgrades)
    later = [(height, upgraded) for height, upgraded in record.upgrades if height >= head and upgraded > newest]
    return replace(record, upgrades=(*past, *ahead, *later))
