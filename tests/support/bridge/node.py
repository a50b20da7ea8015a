"""A full node in the process of the test: objects, a list of head changes, and faults at will.

It speaks what the bridge asks of a stock Lotus: ChainReadObj in batches, ChainNotify, ChainHead,
ChainGetPath, ChainGetTipSetByHeight, the network's name, genesis, parameters and version.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from blockstore.cid import Cid, parse
from chain.block import decode_header
from chain.tipset import Tipset, TipsetKey


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Let the loop run until `condition` holds. Errors: TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


HeadChange = tuple[Sequence[TipsetKey], Sequence[TipsetKey]]


@dataclass
class Faults:
    """What the node does wrong. `lies` and `lacks` are multihashes."""

    lies: set[bytes] = field(default_factory=set)
    lacks: set[bytes] = field(default_factory=set)
    has_websocket: bool = True
    batches: int = 100_000
    wrong_path: bool = False
    no_path: bool = False
    delay_seconds: float = 0.0
    is_mute: bool = False
    busy_status: int = 0
    item_error: str = ""


class TestNode:
    """`objects` by multihash; the head begins at `head` and moves by `change`."""

    __test__ = False

    def __init__(
        self,
        objects: dict[bytes, bytes],
        genesis: TipsetKey,
        head: TipsetKey,
        *,
        name: str = "testing",
        schedule: Callable[[int], int] = lambda epoch: 29,
        token: str = "",
    ) -> None:
        self.objects = objects
        self.genesis = genesis
        self.head = head
        self.network = name
        self.schedule = schedule
        self.token = token
        self.faults = Faults()
        #: the answer to F3GetLatestCertificate
        self.certificate: Any = None
        self.url = ""
        self.asked: dict[str, int] = {}
        #: HTTP requests, a batch as one
        self.requests = 0
        self.read: list[bytes] = []
        self._sockets: set[web.WebSocketResponse] = set()
        self._channels: dict[int, tuple[web.WebSocketResponse, int]] = {}
        self._next_channel = 0
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._tipsets: dict[bytes, Tipset] = {}

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> TestNode:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/rpc/v1", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def stop(self) -> None:
        await self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def cut(self) -> None:
        """Break every WebSocket without a word."""
        for socket in list(self._sockets):
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()
        self._channels.clear()
        await asyncio.sleep(0)

    async def close_channels(self) -> None:
        """End every subscription, as a node does with a slow reader."""
        for channel, (socket, _) in list(self._channels.items()):
            with contextlib.suppress(ConnectionError):
                await socket.send_str(_text({"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [channel]}))
        self._channels.clear()

    @property
    def subscribers(self) -> int:
        return len(self._channels)

    # --- the chain ---------------------------------------------------------------------------------

    def tipset(self, key: TipsetKey) -> Tipset:
        found = self._tipsets.get(key)
        if found is None:
            found = Tipset.of([decode_header(cid, self.objects[cid.multihash]) for cid in key.cids])
            self._tipsets[key] = found
        return found

    def path(self, start: TipsetKey, end: TipsetKey) -> tuple[list[TipsetKey], list[TipsetKey]]:
        a, b = self.tipset(start), self.tipset(end)
        reverts: list[TipsetKey] = []
        applies: list[TipsetKey] = []
        while a.key != b.key:
            if a.height > b.height:
                reverts.append(a.key)
                a = self.tipset(a.parents)
            else:
                applies.append(b.key)
                b = self.tipset(b.parents)
        return reverts, applies[::-1]

    async def change(self, reverts: Sequence[TipsetKey], applies: Sequence[TipsetKey]) -> None:
        """Move the head, and tell every subscriber."""
        self.head = applies[-1] if applies else self.tipset(reverts[-1]).parents
        value = [self._change("revert", key) for key in reverts] + [self._change("apply", key) for key in applies]
        if self.faults.is_mute:
            return
        for channel, (socket, _) in list(self._channels.items()):
            try:
                await self._push(socket, channel, value)
            except (ConnectionError, RuntimeError):
                self._channels.pop(channel, None)

    async def go_to(self, key: TipsetKey) -> None:
        """Move the head to any tipset, as one head change."""
        await self.change(*self.path(self.head, key))

    def _change(self, kind: str, key: TipsetKey) -> dict[str, Any]:
        return {"Type": kind, "Val": self._json(self.tipset(key))}

    def _json(self, tipset: Tipset) -> dict[str, Any]:
        return {
            "Cids": [{"/": str(cid)} for cid in tipset.key.cids],
            "Blocks": [{"Miner": "f01000"} for _ in tipset.blocks],
            "Height": tipset.height,
        }

    # --- the wire ----------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if self.faults.busy_status:
            return web.Response(status=self.faults.busy_status, headers={"Retry-After": "1"})
        if request.headers.get("Upgrade", "").lower() == "websocket":
            if not self.faults.has_websocket:
                return web.Response(status=404)
            return await self._websocket(request)
        self.requests += 1
        body = orjson.loads(await request.read())
        if self.faults.delay_seconds:
            await asyncio.sleep(self.faults.delay_seconds)
        if isinstance(body, list):
            if len(body) > self.faults.batches:
                answer: Any = {
                    "jsonrpc": "2.0",
                    "id": None,
                    "error": {"code": -32005, "message": "batch is too large"},
                }
            else:
                answer = [self._answer(call) for call in body]
        else:
            answer = self._answer(body)
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        method = call["method"].removeprefix("Filecoin.")
        self.asked[method] = self.asked.get(method, 0) + 1
        try:
            result = getattr(self, f"_{method}")(*call["params"])
        except LookupError as error:
            return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": 1, "message": str(error)}}
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                call = orjson.loads(message.data)
                method = call["method"]
                if method == "Filecoin.ChainNotify":
                    self.asked["ChainNotify"] = self.asked.get("ChainNotify", 0) + 1
                    self._next_channel += 1
                    channel = self._next_channel
                    await socket.send_str(_text({"jsonrpc": "2.0", "id": call["id"], "result": channel}))
                    await self._push(socket, channel, [self._change("current", self.head)])
                    self._channels[channel] = (socket, call["id"])
                elif method == "xrpc.cancel":
                    for channel, (other, number) in list(self._channels.items()):
                        if other is socket and number == call["params"][0]:
                            del self._channels[channel]
                            await socket.send_str(
                                _text({"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [channel]})
                            )
                else:
                    await socket.send_str(_text(self._answer(call)))
        finally:
            self._sockets.discard(socket)
            for channel, (other, _) in list(self._channels.items()):
                if other is socket:
                    del self._channels[channel]
        return socket

    async def _push(self, socket: web.WebSocketResponse, channel: int, value: Any) -> None:
        await socket.send_str(_text({"jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [channel, value]}))

    # --- methods -----------------------------------------------------------------------------------

    def _ChainReadObj(self, cid: dict[str, str]) -> str:
        multihash = parse(cid["/"]).multihash
        self.read.append(multihash)
        if self.faults.item_error:
            raise LookupError(self.faults.item_error)
        if multihash in self.faults.lacks or multihash not in self.objects:
            raise LookupError(f"blockstore get: ipld: could not find {cid['/']}")
        data = self.objects[multihash]
        if multihash in self.faults.lies:
            data = data[:-1] + bytes((data[-1] ^ 1,))
        return base64.b64encode(data).decode()

    def _ChainHead(self) -> Any:
        return self._json(self.tipset(self.head))

    def _ChainGetGenesis(self) -> Any:
        return self._json(self.tipset(self.genesis))

    def _ChainGetPath(self, start: Any, end: Any) -> Any:
        if self.faults.no_path:
            raise LookupError("loading from tipset: not found")
        if self.faults.wrong_path:
            return [self._change("apply", _key(end))]
        reverts, applies = self.path(_key(start), _key(end))
        return [self._change("revert", k) for k in reverts] + [self._change("apply", k) for k in applies]

    def _ChainGetTipSetByHeight(self, height: int, anchor: Any) -> Any:
        tipset = self.tipset(_key(anchor) or self.head)
        while tipset.height > height:
            tipset = self.tipset(tipset.parents)
        return self._json(tipset)

    def _F3GetLatestCertificate(self) -> Any:
        if self.certificate is None:
            raise LookupError("F3 is not running")
        return self.certificate

    def _StateNetworkName(self) -> str:
        return self.network

    def _StateNetworkVersion(self, key: Any) -> int:
        return self.schedule(self.tipset(_key(key) or self.head).height)

    def _StateGetNetworkParams(self) -> Any:
        return {
            "NetworkName": self.network,
            "BlockDelaySecs": 30,
            "Eip155ChainID": 314,
            "ForkUpgradeParams": {"UpgradeSmokeHeight": 51000, "UpgradeXxHeight": 999999999999999},
        }


def certificate_of(tipset: Tipset, instance: int = 1) -> dict[str, Any]:
    """An F3 certificate that finalizes a tipset, as far as readers look into it."""
    key = base64.b64encode(tipset.key).decode()
    return {"GPBFTInstance": instance, "ECChain": [{"Epoch": tipset.height, "Key": key}]}


def _key(cids: Any) -> TipsetKey:
    return TipsetKey.of([parse(cid["/"]) for cid in cids or []])


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def reachable(
    objects: Callable[[bytes], bytes | None], root: Cid, links: Callable[[Cid, bytes], list[Cid]]
) -> tuple[set[bytes], list[Cid]]:
    """(multihashes under a root, CIDs that are not there), by a plain walk that knows no closed objects."""
    seen: set[bytes] = set()
    missing: list[Cid] = []
    waiting = [root]
    while waiting:
        cid = waiting.pop()
        if cid.multihash in seen:
            continue
        seen.add(cid.multihash)
        data = objects(cid.multihash)
        if data is None:
            missing.append(cid)
            continue
        waiting.extend(links(cid, data))
    return seen, missing
