"""A WebSocket session as methods see it. `rpc.server.websocket` has the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol


class Burst(list[Any]):
    """Several values that a channel method yields at once.

    Each becomes a frame of its own. They wait for a client that reads, where single values that find no room in the
    channel's buffer end the channel.
    """


class Session(Protocol):
    """One WebSocket session. It may push by itself, and says when it ends."""

    #: ids of the filters and subscriptions that this session has made; methods bound their number
    filter_ids: set[bytes]

    @property
    def client(self) -> str:
        """The client's address, as `rpc.server.client_address` tells clients apart."""

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call this when the session has ended."""

    async def notify(self, method: str, params: Any) -> None:
        """Push a notification. Errors: ConnectionError, when the session has ended."""

    def subscribe(self, call: object, subscription: bytes, values: AsyncIterator[Any]) -> None:
        """Push what `values` yields as `eth_subscription`, once the call (its context) is answered with the id."""

    def unsubscribe(self, subscription: bytes) -> bool:
        """End a subscription of this session; whether there was one."""
