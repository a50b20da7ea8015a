"""A full node as a client sees it: calls and batches over HTTP, channels over WebSocket.

What is in flight is bounded, each call has a time-out, and a token appears in no log, `repr` or error.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiohttp
import orjson

from blockstore.cid import Cid
from rpc.client.node_info import NodeInfo
from rpc.client.websocket import WsConnection, call_failed, connect
from rpc.node_errors import (
    BadAnswer,
    CallFailed,
    NodeBusy,
    NodeNotReached,
    NodeRefused,
    NodeTimeout,
    NodeUnavailable,
    RateLimited,
)
from rpc.observe.call_record import trace_headers

#: the biggest HTTP answer read, bytes
MAX_ANSWER: Final = 512 << 20

_READ_HEAD: Final = b'{"jsonrpc":"2.0","method":"Filecoin.ChainReadObj","params":[{"/":"'


def object_batch(cids: Sequence[Cid]) -> bytes:
    """The JSON-RPC batch that reads `cids`, ids counting from 0. Built by hand: this is the mirror's path."""
    rows: list[bytes] = []
    for number, cid in enumerate(cids):
        if cid[:1] == b"\x01":
            text = b"b" + base64.b32encode(cid).rstrip(b"=").lower()
        else:
            text = str(cid).encode()
        rows.append(b'%s%s"}],"id":%d}' % (_READ_HEAD, text, number))
    return b"[" + b",".join(rows) + b"]"


class NodeClient:
    """One full node. `async with NodeClient(info) as node`, or `await node.close()` when done.

    `timeout`: seconds that a request may take once it is sent. `max_in_flight`: HTTP requests (a batch is one) that
    run at once; at most `max_waiting` more wait, each for `wait_seconds`, and then fail with NodeBusy (None: no limit).
    `keeps_connections`: False makes a new connection for each request, so that none meets one that the node has closed.
    Every method raises `NodeError`s only.
    """

    def __init__(
        self,
        info: NodeInfo,
        *,
        version: str = "v1",
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_in_flight: int = 16,
        max_waiting: int | None = None,
        wait_seconds: float | None = None,
        heartbeat: float = 15.0,
        keeps_connections: bool = True,
    ) -> None:
        self.info = info
        self.version = version
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.heartbeat = heartbeat
        self._slots = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._keeps_connections = keeps_connections
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 0
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether a request would have to wait for its turn."""
        return self._slots.locked()

    @property
    def name(self) -> str:
        """What logs call the node; holds no secret."""
        return self.info.name

    def __repr__(self) -> str:
        return f"NodeClient({self.info.name})"

    async def __aenter__(self) -> NodeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._closed:
            raise NodeUnavailable(f"{self.name}: the client is closed")
        if self._session is None:
            auth = None
            if self.info.userinfo:
                user, _, password = self.info.userinfo.partition(":")
                auth = aiohttp.BasicAuth(user, password)
            self._session = aiohttp.ClientSession(
                connector=(
                    aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
                    if self._keeps_connections
                    else aiohttp.TCPConnector(limit=0, force_close=True)
                ),
                auth=auth if not self.info.token else None,
                timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_timeout),
                skip_auto_headers=("User-Agent",),
            )
        return self._session

    async def close(self) -> None:
        """Close what is open. A second call does nothing."""
        self._closed = True
        if self._session is not None:
            with contextlib.suppress(Exception):
                await self._session.close()
            self._session = None

    # --- HTTP --------------------------------------------------------------------------------------

    async def post(self, body: bytes, *, timeout: float | None = None) -> Any:
        """POST a request body; the decoded answer.

        Errors: NodeNotReached, NodeUnavailable, NodeTimeout, NodeBusy, RateLimited, NodeRefused, BadAnswer.
        """
        timeout = self.timeout if timeout is None else timeout
        headers = {"Content-Type": "application/json", **trace_headers(), **self.info.headers()}
        async with self._slot():
            try:
                async with asyncio.timeout(timeout):
                    session = self._http()
                    async with session.post(
                        self.info.url(self.version), data=body, headers=headers, allow_redirects=False
                    ) as response:
                        status = response.status
                        retry_after = response.headers.get("Retry-After", "")
                        answer = await self._body(response)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise NodeNotReached(f"{self.name}: {type(error).__name__}") from None
            except TimeoutError:
                raise NodeTimeout(f"{self.name}: no answer in {timeout} s") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise NodeUnavailable(f"{self.name}: {type(error).__name__}") from None
        if status in (401, 403):
            raise NodeRefused(f"{self.name}: the token is not taken (HTTP {status})")
        if status == 429:
            seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 5.0
            raise RateLimited(f"{self.name}: asked to come later", min(seconds, 300.0))
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError:
            if status in (502, 503, 504):
                raise NodeUnavailable(f"{self.name}: HTTP {status}") from None
            raise BadAnswer(f"{self.name}: HTTP {status}, {len(answer)} bytes that are not JSON") from None

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A place among the requests in flight. Errors: NodeBusy."""
        if self._slots.locked() and self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise NodeBusy(f"{self.name}: {self._max_in_flight} requests are in flight and {self._waiting} wait")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise NodeBusy(
                f"{self.name}: {self._max_in_flight} requests are in flight, and none ended in {self._wait_seconds:g} s"
            ) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.content_length is not None and response.content_length <= MAX_ANSWER:
            return await response.read()
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > MAX_ANSWER:
                raise BadAnswer(f"{self.name}: an answer of more than {MAX_ANSWER} bytes")
            parts.append(part)
        return b"".join(parts)

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """The result of one call, as JSON values. Errors: every NodeError; CallFailed for the node's own."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": list(params)}
        answer = await self.post(orjson.dumps(request), timeout=timeout)
        if not isinstance(answer, dict):
            raise BadAnswer(f"{self.name}: the answer to {method} is not an object")
        error = answer.get("error")
        if error is not None:
            raise call_failed(error)
        return answer.get("result")

    async def batch(
        self, calls: Sequence[tuple[str, Sequence[Any]]], *, timeout: float | None = None
    ) -> list[Any | CallFailed]:
        """The results of several calls in one request, in order; a failed one's place holds its CallFailed.

        Errors: NodeError when the batch as a whole failed; BadAnswer when an answer is missing.
        """
        if not calls:
            return []
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in enumerate(calls)
        ]
        answer = await self.post(orjson.dumps(body), timeout=timeout)
        results: list[Any | CallFailed] = []
        for row in self._rows(answer, len(calls)):
            error = row.get("error")
            if error is None:
                results.append(row.get("result"))
            else:
                failed = call_failed(error)
                if isinstance(failed, BadAnswer):
                    raise failed
                results.append(failed)
        return results

    def _rows(self, answer: Any, count: int) -> list[dict[str, Any]]:
        """The answers of a batch by id: they may come in any order."""
        if isinstance(answer, dict) and answer.get("error") is not None:
            raise call_failed(answer["error"])
        if not isinstance(answer, list):
            raise BadAnswer(f"{self.name}: the answer to a batch is not a list")
        rows: list[dict[str, Any] | None] = [None] * count
        for row in answer:
            number = row.get("id") if isinstance(row, dict) else None
            if isinstance(number, int) and 0 <= number < count:
                rows[number] = row
        found = [row for row in rows if row is not None]
        if len(found) != count:
            raise BadAnswer(f"{self.name}: a batch of {count} has {len(found)} answers")
        return found

    async def read_objects(self, cids: Sequence[Cid], *, timeout: float | None = None) -> list[bytes | CallFailed]:
        """The bytes of objects by `ChainReadObj`, in order; NOT verified. A failed one's place holds why.

        Errors: NodeError when the request as a whole failed.
        """
        if len(cids) == 1:  # an endpoint that takes no batches is still of use
            try:
                results: list[Any] = [await self.call("Filecoin.ChainReadObj", {"/": str(cids[0])}, timeout=timeout)]
            except CallFailed as error:
                return [error]
        else:
            results = []
            for row in self._rows(await self.post(object_batch(cids), timeout=timeout), len(cids)):
                if row.get("error") is not None:
                    results.append(call_failed(row["error"]))
                else:
                    results.append(row.get("result"))
        found: list[bytes | CallFailed] = []
        for result in results:
            if isinstance(result, CallFailed):
                found.append(result)
            elif isinstance(result, BadAnswer):
                raise result
            elif isinstance(result, str):
                try:
                    found.append(base64.b64decode(result))
                except ValueError:
                    raise BadAnswer(f"{self.name}: an object that is not base64") from None
            else:
                raise BadAnswer(f"{self.name}: an object that is not a string")
        return found

    # --- WebSocket ---------------------------------------------------------------------------------

    async def connect(self) -> WsConnection:
        """A new WebSocket connection. Errors: NodeUnavailable, NodeRefused, BadAnswer (none there)."""
        return await connect(
            self._http(),
            self.info,
            self.version,
            timeout=self.connect_timeout,
            heartbeat=self.heartbeat,
            max_in_flight=self._max_in_flight,
        )
