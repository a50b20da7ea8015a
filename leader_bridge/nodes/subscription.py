"""Head changes as a node tells them: `ChainNotify` over WebSocket, or by asking for the head again and again.

What a node says is a hint of where to go: keys and epochs only. Headers are read and verified apart.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol

from blockstore.cid import parse
from blockstore.errors import BadCid
from chain.tipset import TipsetKey
from leader_bridge.clock import monotonic
from rpc.client.client import NodeClient
from rpc.client.websocket import Channel, WsConnection
from rpc.node_errors import BadAnswer, CallFailed, NodeTimeout

REVERT: Final = "revert"
APPLY: Final = "apply"
CURRENT: Final = "current"


@dataclass(frozen=True, slots=True)
class Change:
    """One tipset of a head change. `kind` is `revert`, `apply` or `current`."""

    kind: str
    height: int
    key: TipsetKey


def parse_key(cids: Any) -> TipsetKey:
    """A tipset key from its JSON form. Errors: BadAnswer."""
    try:
        return TipsetKey.of([parse(cid["/"]) for cid in cids])
    except (BadCid, TypeError, KeyError) as error:
        raise BadAnswer(f"not a tipset key: {error}") from None


def parse_tipset(value: Any) -> tuple[int, TipsetKey]:
    """(height, key) of a tipset in its JSON form. Errors: BadAnswer."""
    if not isinstance(value, dict) or not isinstance(value.get("Height"), int):
        raise BadAnswer("not a tipset")
    key = parse_key(value.get("Cids"))
    if not key:
        raise BadAnswer("a tipset without blocks")
    return value["Height"], key


def parse_changes(value: Any) -> list[Change]:
    """A head change as ChainNotify and ChainGetPath give it. Errors: BadAnswer."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadAnswer("a head change is not a list")
    changes: list[Change] = []
    for item in value:
        kind = item.get("Type") if isinstance(item, dict) else None
        if kind not in (REVERT, APPLY, CURRENT):
            raise BadAnswer(f"a head change of unknown type {str(kind)[:40]!r}")
        height, key = parse_tipset(item.get("Val"))
        changes.append(Change(kind, height, key))
    return changes


def merge_changes(changes: list[Change]) -> list[Change]:
    """Several head changes as one: reverts, then applies; what was applied and reverted again is left out.

    As they are, where they do not go on from each other: whoever takes them looks for the way then.
    """
    reverts: list[Change] = []
    applies: list[Change] = []
    for change in changes:
        if change.kind == APPLY:
            applies.append(change)
        elif change.kind == REVERT and not applies:
            reverts.append(change)
        elif change.kind == REVERT and applies[-1].key == change.key:
            applies.pop()
        else:
            return changes
    return [*reverts, *applies]


async def fetch_chain_head(client: NodeClient) -> Change:
    """The node's head. Errors: NodeError."""
    height, key = parse_tipset(await client.call("Filecoin.ChainHead"))
    return Change(CURRENT, height, key)


class Subscription(Protocol):
    """A stream of whole head changes; the first is `current`."""

    #: how it comes: "websocket" or "polling"
    transport: str

    async def next(self, timeout: float) -> list[Change]:
        """The next head change. Errors: NodeTimeout after `timeout` quiet seconds; NodeError: it ended."""

    async def close(self) -> None:
        """Stop it."""


class PushedChanges:
    """`ChainNotify` on a connection of its own."""

    transport = "websocket"

    def __init__(self, connection: WsConnection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel

    async def next(self, timeout: float) -> list[Change]:
        """See `Subscription`."""
        return parse_changes(await self._channel.next(timeout))

    async def close(self) -> None:
        """See `Subscription`."""
        if self._connection.alive:
            await self._channel.cancel()
        await self._connection.close()


class PolledChanges:
    """The head, asked for every `interval` seconds, for endpoints without WebSocket."""

    transport = "polling"

    def __init__(self, client: NodeClient, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._last = TipsetKey()

    async def next(self, timeout: float) -> list[Change]:
        """See `Subscription`; a node that does not answer ends it at once."""
        end = monotonic() + timeout
        while True:
            if self._last:
                if monotonic() >= end:
                    raise NodeTimeout(f"{self._client.name}: the same head for {timeout} s")
                await asyncio.sleep(self._interval)
            head = await fetch_chain_head(self._client)
            if head.key != self._last:
                self._last = head.key
                return [head]

    async def close(self) -> None:
        """See `Subscription`."""


async def subscribe(client: NodeClient, *, poll_interval: float) -> Subscription:
    """Subscribe to a node's head, by polling where it has no WebSocket. Errors: NodeError."""
    try:
        connection = await client.connect()
    except BadAnswer:
        return PolledChanges(client, poll_interval)
    try:
        channel = await connection.open_channel("Filecoin.ChainNotify", [], client.timeout)
    except CallFailed as error:
        await connection.close()
        if error.code == -32601:
            return PolledChanges(client, poll_interval)
        raise
    except BaseException:
        await connection.close()
        raise
    return PushedChanges(connection, channel)
