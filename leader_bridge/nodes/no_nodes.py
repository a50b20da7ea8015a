"""The fetcher of work without full nodes."""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.cid import Cid
from leader_bridge.nodes.sources import Fetched


class NoNodes:
    """No node to fetch from (`leader_bridge.store.mirror.Fetcher`)."""

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Nothing."""
        return Fetched(missing=list(cids))
