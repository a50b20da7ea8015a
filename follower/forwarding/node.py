"""One of the full nodes behind a follower: its lanes, its head, how well it answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Any, Final

from blockstore.cid import parse
from blockstore.errors import BadCid
from chain.tipset import Tipset, TipsetKey
from follower.forwarding.breaker import CircuitBreaker
from follower.forwarding.method_rules import Kind
from follower.forwarding.response_times import ResponseTimes, blend
from rpc.client.client import NodeClient
from rpc.client.websocket import WsConnection
from rpc.json_wire import key_json
from rpc.node_errors import CallFailed, NodeBusy, NodeError, RateLimited
from rpc.observe.call_record import node_call

log = logging.getLogger(__name__)

#: tipsets of which is remembered whether the node holds them
_TIPSETS: Final = 1024
#: seconds for which the node is not asked again for a tipset that it lacks
_LACKS_SECONDS: Final = 0.25


class ForwardNode:
    """A node and a client of it for each kind of call. `watch_client` asks for its head and its tipsets."""

    def __init__(self, lanes: dict[Kind, NodeClient], watch_client: NodeClient) -> None:
        self._lanes = lanes
        self._watch_client = watch_client
        self.breaker = CircuitBreaker()
        #: None until it has answered
        self.height: int | None = None
        #: response time as a multiple of the usual one; None until it has answered
        self.slowness: float | None = None
        self.calls = 0
        self.failures = 0
        #: an operator wants it to be left alone
        self.is_cordoned = False
        self._held: OrderedDict[bytes, None] = OrderedDict()
        self._lacked_until: dict[bytes, float] = {}
        self._probes: dict[bytes, asyncio.Task[bool]] = {}

    @classmethod
    def of(cls, client: NodeClient) -> ForwardNode:
        """A node with one client for everything."""
        return cls(dict.fromkeys(Kind, client), client)

    @property
    def name(self) -> str:
        """Host and port; holds no secret."""
        return self._watch_client.name

    @property
    def passes(self) -> bool:
        """Whether it may be asked now."""
        return self.breaker.passes and not self.is_cordoned

    def is_full(self, kind: Kind) -> bool:
        """Whether a call of this kind would have to wait for its turn."""
        return self._lanes[kind].is_full

    async def call(self, kind: Kind, method: str, params: list[Any], seconds: float, times: ResponseTimes) -> Any:
        """The result of one call; the breaker must have been entered. Errors: NodeError."""
        began = time.monotonic()
        self.calls += 1
        answered = False
        try:
            with node_call(self.name, method):
                result = await self._lanes[kind].call(method, *params, timeout=seconds)
            answered = True
            return result
        except CallFailed:
            answered = True
            raise
        except NodeBusy:
            # nothing was sent
            self.breaker.left()
            raise
        except NodeError as error:
            self._failed(error)
            raise
        except asyncio.CancelledError:
            self.breaker.left()
            took = time.monotonic() - began
            if took > times.late_after(method) > 0:
                # another node was faster: this says at least so much
                self.slowness = blend(self.slowness, times.add(method, took))
            raise
        except BaseException:
            # a fault before anything was sent: a trial that never ends would keep the node away for ever
            self.breaker.left()
            raise
        finally:
            if answered:
                self.breaker.succeeded()
                self.slowness = blend(self.slowness, times.add(method, time.monotonic() - began))

    def _failed(self, error: NodeError) -> None:
        self.failures += 1
        if isinstance(error, RateLimited):
            self.breaker.pause(error.retry_after)
            return
        was_closed = self.breaker.is_closed
        self.breaker.failed()
        if was_closed and not self.breaker.is_closed:
            log.warning("full node %s is left alone for a while: %s", self.name, error)

    # --- its head --------------------------------------------------------------------------------------------

    async def look(self, seconds: float, times: ResponseTimes) -> None:
        """Ask for its head. Errors: NodeError (it counts as a failure of the node)."""
        began = time.monotonic()
        try:
            head = await self._watch_client.call("Filecoin.ChainHead", timeout=seconds)
            height, key = int(head["Height"]), TipsetKey.of(parse(cid["/"]) for cid in head["Cids"])
        except (BadCid, KeyError, TypeError, ValueError):
            error = NodeError(f"{self.name}: its head is no tipset")
            self._failed(error)
            raise error from None
        except NodeBusy:
            raise
        except NodeError as error:
            self._failed(error)
            raise
        self.slowness = blend(self.slowness, times.add("Filecoin.ChainHead", time.monotonic() - began))
        self.breaker.revive()
        self.height = height
        self._remember(key)

    def is_known_to_hold(self, tipset: Tipset) -> bool:
        """Whether it has been seen to hold this tipset."""
        return tipset.key in self._held

    async def holds(self, tipset: Tipset, seconds: float, times: ResponseTimes) -> bool:
        """Whether it holds this tipset and has come as far: headers may lie there before their turn.

        Asks the node where that is not known; False where it does not answer.
        """
        key = bytes(tipset.key)
        if key in self._held:
            return True
        if time.monotonic() < self._lacked_until.get(key, 0.0):
            return False
        probe = self._probes.get(key)
        if probe is None:
            probe = self._probes[key] = asyncio.create_task(self._probe(tipset, seconds, times))
            probe.add_done_callback(lambda _: self._probes.pop(key, None))
        # who asked first may leave: others wait too, and the answer is kept
        return await asyncio.shield(probe)

    async def _probe(self, tipset: Tipset, seconds: float, times: ResponseTimes) -> bool:
        key = bytes(tipset.key)
        try:
            if self.height is None or self.height < tipset.height:
                await self.look(seconds, times)
            if key not in self._held and self.height is not None and self.height >= tipset.height:
                await self._watch_client.call("Filecoin.ChainGetTipSet", key_json(tipset.key), timeout=seconds)
                self._remember(key)
        except CallFailed as error:
            log.debug("%s does not hold %s: %s", self.name, tipset.key, error)
        except NodeError as error:
            log.debug("%s was asked for %s: %s", self.name, tipset.key, error)
        if key in self._held:
            return True
        if len(self._lacked_until) >= _TIPSETS:
            self._lacked_until.clear()
        self._lacked_until[key] = time.monotonic() + _LACKS_SECONDS
        return False

    def _remember(self, key: bytes) -> None:
        self._held[key] = None
        self._held.move_to_end(key)
        self._lacked_until.pop(key, None)
        if len(self._held) > _TIPSETS:
            self._held.popitem(last=False)

    async def connect(self) -> WsConnection:
        """A new WebSocket connection. Errors: NodeError (it counts as a failure of the node)."""
        try:
            return await self._watch_client.connect()
        except NodeError as error:
            self._failed(error)
            raise

    async def close(self) -> None:
        """Close every connection."""
        for probe in list(self._probes.values()):
            probe.cancel()
        for client in (*self._lanes.values(), self._watch_client):
            await client.close()
