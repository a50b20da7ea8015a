"""The server's limits and switches, with Lotus' defaults where Lotus has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rpc.server.client_address import PRIVATE

READ_ONLY: Final = frozenset({"read"})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything about the wire that an operator may set. Times in seconds, sizes in bytes."""

    #: a request's body, and a WebSocket message (go-jsonrpc: 100 MiB)
    max_body_bytes: int = 100 << 20
    #: bodies of all connections together; one that does not fit waits before it is read
    body_budget: int = 256 << 20
    #: JSON values in one body: what its parsed form takes in memory goes with it
    max_values: int = 2_000_000
    #: the request line and the headers of one request
    max_head_bytes: int = 16 << 10
    #: requests in one batch, how many of them run at once, and what their answers may take together
    max_batch: int = 10_000
    batch_parallel: int = 16
    max_batch_answer_bytes: int = 256 << 20
    #: requests under way in this process; beyond it 503
    max_in_flight: int = 1024
    #: answers that walk whole trees at once, and how many may wait for a place
    heavy_parallel: int = 2
    heavy_waiting: int = 64
    max_connections: int = 8192
    #: one WebSocket: calls under way, open channels, values kept for a channel that is read slowly
    ws_max_calls: int = 64
    ws_max_channels: int = 64
    ws_channel_buffer: int = 16
    ws_ping_seconds: float = 30.0
    #: how long one of many values that come at once waits until a slow reader has room for it
    ws_slow_reader_seconds: float = 30.0
    #: a connection with nothing under way; a request's head; 64 KiB of its body; an answer not taken
    idle_timeout_seconds: float = 300.0
    head_timeout_seconds: float = 30.0
    body_timeout_seconds: float = 30.0
    write_timeout_seconds: float = 60.0
    #: how long a call goes on for a peer that has closed its side (gone, or only done with sending)
    eof_timeout_seconds: float = 10.0
    #: how long a refused peer may go on sending, unread, so that it gets to read the refusal
    linger_seconds: float = 2.0
    #: how long a request with X-Filecoin-Min-Head waits for that head
    min_head_wait_seconds: float = 10.0
    #: HS256 secret of the bearer tokens; without one, tokens are not looked at
    jwt_secret: bytes | None = field(default=None, repr=False)
    #: what a caller without a token may do
    default_permissions: frozenset[str] = READ_ONLY
    #: networks of balancers whose X-Forwarded-For is believed
    trusted_proxies: tuple[str, ...] = PRIVATE
    #: value of Access-Control-Allow-Origin, or "" for none
    cors_origin: str = "*"
    #: answer CORS preflights; Lotus does not, it answers an OPTIONS request like an empty one
    cors_preflight: bool = False
