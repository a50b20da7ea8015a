"""The lanes from a follower to the full nodes behind it, each with connections and limits of its own.

What strangers cause (forwarded calls) must not delay what the follower itself needs (objects that it lacks, the nodes'
heads), slow executions must not delay quick reads, and reads must not delay writes: so these are separate lanes. A lane
has its own HTTP client for every node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from follower.forwarding.mempool_feed import MempoolFeed
from follower.forwarding.method_rules import Kind
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute, Times
from follower.setting_parsers import method_seconds
from follower.settings import Settings
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo, parse_node_info

#: forwarded calls that may wait for a node, and requests for objects that may
_MAX_WAITING_CALLS: Final = 256
_MAX_WAITING_READS: Final = 4096
#: requests for objects in flight to a node; each asks for up to `fetch_batch` objects
_READS_IN_FLIGHT: Final = 16
#: questions about heads and tipsets in flight to a node, and that may wait
_LOOKS_IN_FLIGHT: Final = 4
_MAX_WAITING_LOOKS: Final = 64
#: the longest that a node's head may take, and a connection for a write, in seconds
_LOOK_SECONDS: Final = 5.0
_WRITE_CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class NodeLanes:
    """The lanes to the nodes, in the operator's order. `watch_client` asks the first one for its head."""

    forward: ForwardRoute
    mempool: MempoolFeed
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

        def forward_client(node: NodeInfo, kind: Kind) -> NodeClient:
            is_write = kind is Kind.WRITE
            return NodeClient(
                node,
                timeout=forward_seconds,
                connect_timeout=min(answer_seconds, _WRITE_CONNECT_SECONDS) if is_write else 10.0,
                max_in_flight=settings["forward_concurrency"],
                max_waiting=_MAX_WAITING_CALLS,
                wait_seconds=settings["forward_wait_seconds"],
                keeps_connections=not is_write,
            )

        def own_client(node: NodeInfo, in_flight: int, waiting: int) -> NodeClient:
            return NodeClient(
                node,
                timeout=answer_seconds,
                max_in_flight=in_flight,
                max_waiting=waiting,
                wait_seconds=answer_seconds,
            )

        def object_client(node: NodeInfo) -> NodeClient:
            return own_client(node, _READS_IN_FLIGHT, _MAX_WAITING_READS)

        def watch_client(node: NodeInfo) -> NodeClient:
            return own_client(node, _LOOKS_IN_FLIGHT, _MAX_WAITING_LOOKS)

        times = Times(
            execute=forward_seconds,
            quick=min(forward_seconds, answer_seconds),
            wait=settings["forward_wait_seconds"],
            look=min(answer_seconds, _LOOK_SECONDS),
            hedge=settings["forward_hedge_seconds"],
            next_node=answer_seconds,
            by_method=method_seconds(settings["forward_method_seconds"]),
        )
        route = ForwardRoute(
            [ForwardNode({kind: forward_client(node, kind) for kind in Kind}, watch_client(node)) for node in nodes],
            times,
            cache_bytes=settings["forward_cache_mb"] << 20,
        )
        return cls(
            route,
            MempoolFeed(route),
            tuple(object_client(node) for node in nodes),
            watch_client(nodes[0]),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self.mempool.close()
        await self.forward.close()
        for client in (*self.object_clients, self.watch_client):
            await client.close()
