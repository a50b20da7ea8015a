"""The way from a follower to the full nodes behind it, for what it cannot answer itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from rpc.client.client import NodeClient
from rpc.node_errors import CallFailed, NodeError

log = logging.getLogger(__name__)

#: how many of the nodes are tried for one call
_TRIES: Final = 3


class NodeRoute:
    """`rpc.services.NodeClient` over several clients: the first that answers, the next where it does not."""

    def __init__(self, clients: Sequence[NodeClient]) -> None:
        self._clients = list(clients)

    async def call(self, method: str, params: list[Any]) -> Any:
        """The result of a call. Errors: CallFailed (the node's own error), another NodeError (none answers)."""
        last: NodeError | None = None
        for client in self._clients[:_TRIES]:
            try:
                return await client.call(method, *params)
            except CallFailed:
                raise
            except NodeError as error:
                log.info("%s was asked of %s: %s", method, client.name, error)
                last = error
        assert last is not None, "a route has at least one client"
        raise last
