"""Recorded answers: what only the node knows is asked once a head and stored beside the tipset.

Asked while the tipset is mirrored, and never waited for longer than a moment: a head is not held up for it, and
an answer that did not come is simply not there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.store import META, RECORDED, Batch, Store
from chain.index.recorded_answers import F3_CERTIFICATE, NETWORK_PARAMS
from rpc.client.client import NodeClient
from rpc.node_errors import CallFailed, NodeError

log = logging.getLogger(__name__)

#: row key -> method without parameters, asked at every head
QUESTIONS: Final = {F3_CERTIFICATE: "Filecoin.F3GetLatestCertificate"}
#: seconds that publishing a head may wait for answers
_PUBLISH_WAIT_SECONDS: Final = 0.5


async def keep_network_params(store: Store, client: NodeClient) -> None:
    """Store the node's StateGetNetworkParams answer; a node that does not tell it changes nothing."""
    try:
        answer = await client.call("Filecoin.StateGetNetworkParams")
    except NodeError as error:
        log.debug("%s does not tell the network's parameters: %s", client.name, error)
        return
    if isinstance(answer, dict):
        batch = Batch()
        batch.put(META, b"", NETWORK_PARAMS, orjson.dumps(answer))
        await store.write(batch)


class Recorder:
    """Asks one node at a time. `begin` when it is connected to, `ask` before a head's work, `keep` after it."""

    def __init__(self, store: Store, *, publish_wait_seconds: float = _PUBLISH_WAIT_SECONDS) -> None:
        self._store = store
        self._publish_wait_seconds = publish_wait_seconds
        self._client: NodeClient | None = None
        #: questions that this node answers with an error: not asked again on this connection
        self._refused: set[bytes] = set()
        self._asking: asyncio.Task[dict[bytes, Any]] | None = None

    def begin(self, client: NodeClient) -> None:
        """Another node, or another connection: every question is asked again."""
        self._client = client
        self._refused.clear()

    def ask(self) -> None:
        """Start to ask; an earlier asking that nobody kept is given up."""
        self.stop()
        if self._client is not None and len(self._refused) < len(QUESTIONS):
            self._asking = asyncio.create_task(self._answers(self._client), name="recorded answers")

    async def keep(self, tipset_cid: Cid) -> None:
        """Store what was answered, beside the tipset. Errors: StoreError."""
        asking, self._asking = self._asking, None
        if asking is None:
            return
        try:
            answers = await asyncio.wait_for(asking, self._publish_wait_seconds)
        except TimeoutError:
            return
        batch = Batch()
        for key, answer in answers.items():
            batch.put(RECORDED, tipset_cid, key, orjson.dumps(answer))
        if batch:
            await self._store.write(batch)

    def stop(self) -> None:
        """Give up what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _answers(self, client: NodeClient) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for key, method in QUESTIONS.items():
            if key in self._refused:
                continue
            try:
                answer = await client.call(method)
            except CallFailed as error:
                log.debug("%s does not answer %s: %s", client.name, method, error)
                self._refused.add(key)
            except NodeError as error:
                log.debug("%s was asked %s: %s", client.name, method, error)
            else:
                if answer is not None:
                    found[key] = answer
        return found
