"""Archives as the first source of objects that a walk lacks: what they have need not be asked of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from blockstore.archive.tier import Archives
from blockstore.cid import Cid
from leader_bridge import metrics
from leader_bridge.nodes.sources import Fetched


class Fetcher(Protocol):
    """The nodes: `leader_bridge.nodes.sources.Sources`."""

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Verified objects, and what no node holds. Errors: NoSource."""


class ArchiveFetcher:
    """Asks the archives, then the nodes for the rest: also for what an archive has and cannot give."""

    def __init__(self, archives: Archives, nodes: Fetcher) -> None:
        self._archives = archives
        self._nodes = nodes

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """As `Sources.fetch`. Errors: NoSource."""
        outcomes = await self._archives.outcomes([cid.multihash for cid in cids])
        found = {cid: data for cid, data in zip(cids, outcomes, strict=True) if isinstance(data, bytes)}
        metrics.ARCHIVE_OBJECTS.inc(len(found))
        rest = [cid for cid in cids if cid not in found]
        if not rest:
            return Fetched(found)
        fetched = await self._nodes.fetch(rest)
        return Fetched({**found, **fetched.found}, fetched.missing)
