"""Recorded answers: what only the node knows is asked once a head and stored beside the tipset.

Asked while the tipset is mirrored, and never waited for longer than a moment: a head is not held up for it, and
an answer that did not come in time goes to the next head.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.store import META, RECORDED, Batch, Store
from chain.index.recorded_answers import F3_CERTIFICATE, NETWORK_PARAMS
from leader_bridge.clock import monotonic
from rpc.client.client import NodeClient
from rpc.errors import METHOD_NOT_FOUND
from rpc.node_errors import CallFailed, NodeError

log = logging.getLogger(__name__)

#: row key -> method without parameters, asked at every head
QUESTIONS: Final = {F3_CERTIFICATE: "Filecoin.F3GetLatestCertificate"}
#: seconds that publishing a head may wait for answers
_PUBLISH_WAIT_SECONDS: Final = 0.5
#: seconds until a question is asked again that the node answered with an error
_RETRY_SECONDS: Final = 30.0


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
    """Asks one node at a time. `begin` when it is connected to, `ask` before a head's work, `keep` after it.

    Each head gets the newest answer that is known, if the node's own comes too late or not at all: what F3 has
    finalized stays final. `publish_wait_seconds` is the longest that `keep` waits for the node; a question that the
    node answers with an error is asked again after `retry_seconds`.
    """

    def __init__(
        self,
        store: Store,
        *,
        publish_wait_seconds: float = _PUBLISH_WAIT_SECONDS,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._wait_seconds = publish_wait_seconds
        self._retry_seconds = retry_seconds
        self._client: NodeClient | None = None
        #: when a question may be asked again on this connection (the loop's clock), after an error
        self._ask_again_at: dict[bytes, float] = {}
        #: the newest answers; None until those beside the head before are read
        self._newest: dict[bytes, Any] | None = None
        self._asking: asyncio.Task[dict[bytes, Any]] | None = None

    def begin(self, client: NodeClient) -> None:
        """Another node, or another connection: every question is asked again."""
        self.stop()
        self._client = client
        self._ask_again_at.clear()
        # another bridge may have led in between
        self._newest = None

    def ask(self) -> None:
        """Start to ask, unless an earlier asking is still under way: its answer serves the next head."""
        if self._client is not None and self._asking is None:
            self._asking = asyncio.create_task(self._answers(self._client), name="recorded answers")

    async def keep(self, tipset_cid: Cid, previous: Cid | None = None) -> None:
        """Store the newest answers beside a tipset. `previous`: that of the head before. Errors: StoreError."""
        if self._newest is None:
            self._newest = {} if previous is None else await self._recorded(previous)
        asking = self._asking
        if asking is not None:
            done, _ = await asyncio.wait((asking,), timeout=self._wait_seconds)
            if done:
                self._asking = None
                for key, answer in asking.result().items():
                    if _is_newer(answer, self._newest.get(key)):
                        self._newest[key] = answer
        batch = Batch()
        for key, answer in self._newest.items():
            batch.put(RECORDED, tipset_cid, key, orjson.dumps(answer))
        if batch:
            await self._store.write(batch)

    def stop(self) -> None:
        """Give up what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _recorded(self, tipset_cid: Cid) -> dict[bytes, Any]:
        """The answers that are recorded beside a tipset."""
        rows = await self._store.rows(RECORDED, [(tipset_cid, key) for key in QUESTIONS])
        return {key: orjson.loads(row) for key, row in zip(QUESTIONS, rows, strict=True) if row is not None}

    async def _answers(self, client: NodeClient) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for key, method in QUESTIONS.items():
            if monotonic() < self._ask_again_at.get(key, 0.0):
                continue
            try:
                answer = await client.call(method)
            except CallFailed as error:
                log.debug("%s does not answer %s: %s", client.name, method, error)
                # a node without the method never has it; one whose F3 is not ready soon may be
                pause = math.inf if error.code == METHOD_NOT_FOUND else self._retry_seconds
                self._ask_again_at[key] = monotonic() + pause
            except NodeError as error:
                log.debug("%s was asked %s: %s", client.name, method, error)
            else:
                if answer is not None:
                    found[key] = answer
        return found


def _is_newer(answer: Any, known: Any) -> bool:
    """Whether a certificate is of a later instance of F3, or of the same one, than the one that is known."""
    if not isinstance(known, dict) or not isinstance(answer, dict):
        return isinstance(answer, dict)
    return _instance(answer) >= _instance(known)


def _instance(certificate: dict[str, Any]) -> int:
    found = certificate.get("GPBFTInstance")
    return found if isinstance(found, int) else -1
