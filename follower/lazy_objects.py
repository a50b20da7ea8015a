"""Lazy state: an object is fetched from the full nodes when it is first read.

The fastest node is asked first (`blockstore.tier.sources`). An object that one node lacks, answers wrongly or cannot
answer is asked of the next. It counts as missing only when every node has said that it does not have it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from blockstore.cid import Cid, verify
from blockstore.errors import BadCid, HashMismatch, StoreError
from blockstore.tier.sources import PROBED, Outcome, RankedSources
from chain.ipld.objects import FetchFailed
from rpc.client.client import NodeClient
from rpc.errors import METHOD_NOT_FOUND
from rpc.node_errors import CallFailed, NodeError

log = logging.getLogger(__name__)

#: what a node's error contains when the node does not have the object
_ABSENT: Final = ("not find", "not found")


class NodeSource:
    """A full node as a source of objects, by `ChainReadObj` in requests of at most `batch` objects each."""

    def __init__(self, client: NodeClient, batch: int) -> None:
        self._client = client
        self._batch = batch

    @property
    def name(self) -> str:
        """See Source."""
        return self._client.name

    async def read(self, keys: Sequence[Cid]) -> Sequence[Outcome]:
        """See Source."""
        parts = [keys[at : at + self._batch] for at in range(0, len(keys), self._batch)]
        answers = await asyncio.gather(*(_ask_node(self._client, part) for part in parts))
        return [outcome for part in answers for outcome in part]

    async def probe(self) -> None:
        """See Source."""
        (answer,) = await _ask_node(self._client, [PROBED])
        if isinstance(answer, StoreError):
            raise answer


def node_sources(clients: Sequence[NodeClient], batch: int) -> RankedSources[Cid]:
    """The nodes, ranked; in the order of `clients` until they are known. `batch`: objects in one request.

    Its `read` is what `Objects` fetches missing objects with.
    """
    if not clients or batch < 1:
        raise ValueError("at least one node and one object a request are needed")
    return RankedSources([NodeSource(client, batch) for client in clients])


async def _ask_node(client: NodeClient, cids: Sequence[Cid]) -> list[Outcome]:
    """One request to one node: verified bytes, None for what it says it has not, errors for the rest."""
    try:
        answers = await client.read_objects(cids)
    except NodeError as error:
        log.info("%s was asked for %d objects: %s", client.name, len(cids), error)
        if isinstance(error, CallFailed) and len(cids) > 1:
            # an endpoint with a smaller limit for batches, or none at all
            half = len(cids) // 2
            return await _ask_node(client, cids[:half]) + await _ask_node(client, cids[half:])
        return [FetchFailed(cid, str(error)) for cid in cids]
    return [_verify_answer(client, cid, answer) for cid, answer in zip(cids, answers, strict=True)]


def _verify_answer(client: NodeClient, cid: Cid, answer: bytes | CallFailed) -> Outcome:
    if isinstance(answer, CallFailed):
        if answer.code != METHOD_NOT_FOUND and any(words in answer.message for words in _ABSENT):
            return None
        return FetchFailed(cid, f"{client.name}: {answer.message}")
    try:
        verify(cid.multihash, answer)
    except BadCid as error:
        # a hash that cannot be checked: nothing that came under it may be stored
        return FetchFailed(cid, f"its hash cannot be verified: {error}")
    except HashMismatch:
        log.error("%s answered bytes that are not %s", client.name, cid)
        return FetchFailed(cid, f"{client.name} answered other bytes")
    return answer
