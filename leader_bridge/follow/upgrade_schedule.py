"""The store's upgrade schedule, kept right while the chain goes on.

It comes from `network_file`, else from the table of known networks; versions that these do not know, and networks that
they do not name, from the node. Dates are added or moved only while they are ahead of the published head. Before a head
is published the node's network version there is compared with ours. A version that no source announced is found by the
node's versions at the tipsets before the head. A contradiction stops publishing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from blockstore.store import Batch, Store
from chain.known_networks import known_network
from chain.network import (
    NetworkRecord,
    ScheduleConflict,
    load_network,
    merge_upgrades,
    read_network_file,
    save_network,
    version_in,
)
from chain.tipset import Tipset, TipsetKey
from leader_bridge.follow.network import schedule_of
from rpc.client.client import NodeClient
from rpc.json_wire import key_json
from rpc.node_errors import BadAnswer, CallFailed

log = logging.getLogger(__name__)

#: heights from here on stand for "not planned yet" (Lotus: 999999999999999)
_NEVER: Final = 10**9


class UpgradeSchedule:
    """The network record of a store. `on_change` is called after the record was changed."""

    def __init__(self, store: Store, network_file: Path | None, on_change: Callable[[], None]) -> None:
        self._store = store
        self._network_file = network_file
        self._on_change = on_change
        self._record: NetworkRecord | None = None

    async def merge(self, client: NodeClient, head: int) -> None:
        """Take dates that are ahead of the published head (an epoch; -1: none) from every source.

        Errors: ScheduleConflict, NodeError, StoreError, BadRequest (the network file).
        """
        self._record = record = await load_network(self._store)
        if record is None:
            return
        merged = record
        announced = self._announced(record)
        if announced is not None:
            source = str(self._network_file or "the table of known networks")
            merged = merge_upgrades(merged, announced, head, source)
        told = await _node_upgrades(client)
        if told and version_in(told, head) == merged.version_at(head):
            newest = max(version for _, version in announced) if announced else -1
            told = [*(announced or ()), *((height, version) for height, version in told if version > newest)]
            merged = merge_upgrades(merged, told, head, client.name)
        await self._save(merged)

    def _announced(self, record: NetworkRecord) -> Sequence[tuple[int, int]] | None:
        """The schedule of the network file, else of a known network; None where there is neither."""
        if self._network_file is not None:
            return read_network_file(self._network_file, record.genesis).upgrades
        known = known_network(record.genesis)
        return None if known is None else known.upgrades

    async def _save(self, record: NetworkRecord) -> None:
        if record == self._record:
            return
        before = set(self._record.upgrades) if self._record is not None else set()
        for height, version in record.upgrades:
            if (height, version) not in before:
                log.warning("the upgrade to network version %d is now at epoch %d", version, height)
        batch = Batch()
        save_network(batch, record)
        await self._store.write(batch)
        self._record = record
        self._on_change()

    async def check_head(self, client: NodeClient, key: TipsetKey, height: int) -> None:
        """Compare the node's version at the published head with ours; a node that does not hold it is not asked on.

        Errors: ScheduleConflict, NodeError.
        """
        version = await _version_at(client, key)
        if self._record is not None and version is not None and version != self._record.version_at(height):
            raise self._conflict(client, version, height)

    async def check(self, client: NodeClient, applies: Sequence[Tipset], head: int) -> None:
        """Compare versions at tipsets that are about to be published (rising) above the published head.

        Errors: ScheduleConflict, NodeError, StoreError, BadRequest.
        """
        if self._record is None or not applies:
            return
        if await self._differing(client, applies) is None:
            return
        # a source may know by now
        await self.merge(client, head)
        differing = await self._differing(client, applies)
        if differing is None:
            return
        tipset, version = differing
        announced = self._announced(self._record)
        newest = max(known for _, known in announced) if announced else -1
        if head < 0 or version <= newest or version < self._record.version_at(tipset.height):
            raise self._conflict(client, version, tipset.height)
        found = await self._find_upgrades(client, applies)
        merged = [(at, known) for at, known in self._record.upgrades if at < head or known < found[0][1]]
        await self._save(merge_upgrades(self._record, [*merged, *found], head, client.name))
        if (differing := await self._differing(client, applies)) is not None:
            raise self._conflict(client, differing[1], differing[0].height)

    async def _differing(self, client: NodeClient, applies: Sequence[Tipset]) -> tuple[Tipset, int] | None:
        """A tipset at which the node's version is another than ours, with the node's; None where none was found.

        Asked at the last tipset, and on both sides of each upgrade between.
        """
        assert self._record is not None
        places = {len(applies) - 1}
        for at in range(1, len(applies)):
            if self._record.version_at(applies[at - 1].height) != self._record.version_at(applies[at].height):
                places |= {at - 1, at}
        for at in sorted(places):
            version = await _version_at(client, applies[at].key)
            if version is not None and version != self._record.version_at(applies[at].height):
                return applies[at], version
        return None

    async def _find_upgrades(self, client: NodeClient, applies: Sequence[Tipset]) -> list[tuple[int, int]]:
        """Every upgrade from the parent of the first tipset to the last tipset, by the node's versions."""
        assert self._record is not None
        found: list[tuple[int, int]] = []

        async def search(low: int, before: int, high: int, after: int) -> None:
            """Find the changes behind tipset `low` (-1: the first one's parent) up to tipset `high`."""
            if before == after:
                return
            if high - low == 1:
                # inside null rounds: at the last of them, no tipset tells the difference
                found.append((applies[high].height - 1, after))
                return
            middle = (low + high) // 2
            version = await _version_at(client, applies[middle].key)
            if version is None:
                raise BadAnswer(f"{client.name} does not say its network version at epoch {applies[middle].height}")
            await search(low, before, middle, version)
            await search(middle, version, high, after)

        last = await _version_at(client, applies[-1].key)
        if last is None:
            raise BadAnswer(f"{client.name} does not say its network version at epoch {applies[-1].height}")
        await search(-1, self._record.version_at(applies[0].height - 1), len(applies) - 1, last)
        return found

    def _conflict(self, client: NodeClient, version: int, height: int) -> ScheduleConflict:
        assert self._record is not None
        return ScheduleConflict(
            f"{client.name} says network version {version} at epoch {height}, "
            f"the store's upgrade schedule {self._record.version_at(height)}"
        )


async def _node_upgrades(client: NodeClient) -> list[tuple[int, int]]:
    """The upgrades in a node's parameters, planned ones too; empty where it tells none. Errors: NodeError."""
    try:
        params: Any = await client.call("Filecoin.StateGetNetworkParams")
    except CallFailed as error:
        log.debug("%s does not tell the network's parameters: %s", client.name, error)
        return []
    forks = params.get("ForkUpgradeParams") if isinstance(params, dict) else None
    if not isinstance(forks, dict):
        return []
    return [(height, version) for height, version in schedule_of(forks) if height < _NEVER]


async def _version_at(client: NodeClient, key: TipsetKey) -> int | None:
    """A node's network version at a tipset; None where it does not say one. Errors: NodeError."""
    try:
        version = await client.call("Filecoin.StateNetworkVersion", key_json(key))
    except CallFailed as error:
        log.debug("%s does not tell its network version: %s", client.name, error)
        return None
    if not isinstance(version, int):
        raise BadAnswer(f"{client.name}: a network version that is not a number")
    return version
