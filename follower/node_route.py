"""The ways from a follower to the full nodes behind it, each with connections and limits of its own.

What strangers cause (forwarded calls) must not delay what the follower itself needs (objects that it lacks, the node's
head), so these are separate lanes: a lane has its own HTTP client for every node.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from follower.settings import Settings
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo, parse_node_info
from rpc.errors import Unavailable
from rpc.node_errors import CallFailed, NodeBusy, NodeError, NodeTimeout

log = logging.getLogger(__name__)

#: how many of the nodes are tried for one call
_MAX_NODES_TRIED: Final = 3
#: forwarded calls that may wait for a node, and requests for objects that may
_MAX_WAITING_CALLS: Final = 256
_MAX_WAITING_READS: Final = 4096
#: requests for objects in flight to a node; each asks for up to `fetch_batch` objects
_READS_IN_FLIGHT: Final = 16


class NodeRoute:
    """`rpc.services.NodeClient` over several clients, best first; one with a free place goes before a busy one.

    Where a node fails, or does not answer within `next_node_seconds`, the next one is asked too, and the first answer
    counts. `timeout_seconds`: what a call may take with all that. None: no limit of its own.
    """

    def __init__(
        self,
        clients: Sequence[NodeClient],
        *,
        timeout_seconds: float | None = None,
        next_node_seconds: float | None = None,
    ) -> None:
        self._clients = list(clients)
        self._timeout_seconds = timeout_seconds
        self._next_node_seconds = next_node_seconds

    async def call(self, method: str, params: list[Any]) -> Any:
        """The result of a call.

        Errors: CallFailed (the node's own error), Unavailable (all are busy, or none answered in time), another
        NodeError (none can be reached).
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._ask_nodes(method, params)
        except (TimeoutError, NodeTimeout):
            raise Unavailable("the full node behind this follower did not answer in time") from None
        except NodeBusy:
            raise Unavailable(
                "the full node behind this follower is busy: too many forwarded calls are in flight; ask again later"
            ) from None

    async def _ask_nodes(self, method: str, params: list[Any]) -> Any:
        # stable: of those with a free place the best ranked comes first
        left = deque(sorted(self._clients[:_MAX_NODES_TRIED], key=lambda client: client.is_full))
        asked: dict[asyncio.Task[Any], NodeClient] = {}
        last: NodeError | None = None
        try:
            while left or asked:
                if left:
                    client = left.popleft()
                    asked[asyncio.create_task(client.call(method, *params))] = client
                wait_seconds = self._next_node_seconds if left else None
                done, _ = await asyncio.wait(asked, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    client = asked.pop(task)
                    try:
                        return task.result()
                    except CallFailed:
                        raise
                    except NodeError as error:
                        log.info("%s was asked of %s: %s", method, client.name, error)
                        last = error
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        assert last is not None, "a route has at least one client"
        raise last


@dataclass(frozen=True, slots=True)
class NodeLanes:
    """The lanes to the nodes, best first. `watch` asks the first one for its head."""

    forward: NodeRoute
    forward_clients: tuple[NodeClient, ...]
    object_clients: tuple[NodeClient, ...]
    watch_client: NodeClient

    @classmethod
    def open(cls, settings: Settings) -> NodeLanes | None:
        """The lanes that the settings ask for; None where they name no node. Connects to nothing yet."""
        if not settings["node"]:
            return None
        nodes = parse_node_info(settings["node"])
        answer_seconds: float = settings["node_timeout_seconds"]
        forward_seconds: float = settings["forward_timeout_seconds"]

        def forward_client(node: NodeInfo) -> NodeClient:
            return NodeClient(
                node,
                timeout=forward_seconds,
                max_in_flight=settings["forward_concurrency"],
                max_waiting=_MAX_WAITING_CALLS,
                wait_seconds=settings["forward_wait_seconds"],
            )

        def object_client(node: NodeInfo) -> NodeClient:
            return NodeClient(
                node,
                timeout=answer_seconds,
                max_in_flight=_READS_IN_FLIGHT,
                max_waiting=_MAX_WAITING_READS,
                wait_seconds=answer_seconds,
            )

        clients = tuple(forward_client(node) for node in nodes)
        return cls(
            NodeRoute(clients, timeout_seconds=forward_seconds, next_node_seconds=answer_seconds),
            clients,
            tuple(object_client(node) for node in nodes),
            NodeClient(nodes[0], timeout=answer_seconds, max_in_flight=1),
        )

    async def close(self) -> None:
        """Close every connection."""
        for client in (*self.forward_clients, *self.object_clients, self.watch_client):
            await client.close()
