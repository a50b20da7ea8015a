"""The server's limits and switches, and the budgets made of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rpc.admission import Admission, Budget, Lane
from rpc.errors import InvalidRequest, LimitExceeded, ParseError, limit_data
from rpc.registry import Cost
from rpc.server.client_address import PRIVATE
from rpc.server.gate.connections import ConnectionBudget
from rpc.server.gate.gate import GateSettings
from rpc.server.gate.tenants import Tenants
from rpc.server.gate.token_bucket import MakeBucket, own_bucket

READ_ONLY: Final = frozenset({"read"})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything about the wire that an operator may set.

    `…_per_client` is the share of one client. Sizes are such that parsing or encoding keeps the event loop for less
    than 50 ms: orjson holds the interpreter while it works, in a thread too.
    """

    #: a request's body (go-jsonrpc: 100 MiB), and a WebSocket message
    max_body_bytes: int = 8 << 20
    max_ws_message_bytes: int = 4 << 20
    #: JSON values in one body: what its parsed form takes in memory goes with it
    max_values: int = 150_000
    #: bytes held for clients: partial bodies and frames, answers being built, what has not been sent yet
    memory_budget_bytes: int = 256 << 20
    memory_budget_bytes_per_client: int = 96 << 20
    #: bytes a second that a body, a message or a reader must make at least, behind the time-outs below
    min_transfer_rate: int = 16 << 10
    #: the request line and the headers of one request
    max_head_bytes: int = 16 << 10
    #: requests in one batch, how many of them run at once, and what their answers may take together
    max_batch: int = 10_000
    batch_parallel: int = 16
    max_batch_answer_bytes: int = 32 << 20
    max_answer_bytes: int = 64 << 20
    #: answers that a process keeps as bytes (`rpc/server/answers`); 0: none
    answer_cache_bytes: int = 64 << 20
    #: answers over HTTP from this size on, to clients that take it, in gzip's form; 0: none
    gzip_from_bytes: int = 16 << 10
    #: whether answers say in `Server-Timing` how long each stage took
    server_timing: bool = False
    #: the level, one of `logging`'s, at which each request gets a line of the log; 0: none does
    request_log_level: int = 0
    #: requests worked on at once
    max_in_flight: int = 1024
    max_in_flight_per_client: int = 256
    #: requests that wait for something to come: a head, a message on chain
    max_waiting: int = 4096
    max_waiting_per_client: int = 512
    #: open channels and subscriptions
    max_channels: int = 2048
    max_channels_per_client: int = 256
    max_connections: int = 8192
    max_connections_per_client: int = 1024
    #: calls of a cost class that run at once (see `rpc.registry.Cost`)
    scan_parallel: int = 8
    heavy_parallel: int = 2
    execute_parallel: int = 32
    #: calls in a lane, running and waiting for their turn, and how many seconds one waits
    lane_calls: int = 256
    lane_calls_per_client: int = 64
    lane_wait_seconds: float = 30.0
    #: what the work for a request, and for a batch, may take; time in which it waits does not count
    request_seconds: float = 60.0
    batch_seconds: float = 120.0
    #: one WebSocket: calls under way, open channels, values kept for a channel that is read slowly
    ws_max_calls: int = 64
    ws_max_channels: int = 64
    ws_channel_buffer: int = 16
    ws_ping_seconds: float = 30.0
    #: how long one of many values that come at once waits until a slow reader has room for it
    ws_slow_reader_seconds: float = 30.0
    #: a connection with nothing under way; a request's head; a body or message; an answer not taken
    idle_timeout_seconds: float = 300.0
    head_timeout_seconds: float = 30.0
    body_timeout_seconds: float = 10.0
    write_timeout_seconds: float = 30.0
    #: how long a call goes on for a peer that has closed its side (gone, or only done with sending)
    eof_timeout_seconds: float = 3.0
    #: how long a refused peer may go on sending, unread, so that it gets to read the refusal
    linger_seconds: float = 2.0
    #: how long a request with X-Filecoin-Min-Head waits for that head
    min_head_wait_seconds: float = 10.0
    #: HS256 secret of the bearer tokens; without one, tokens are not looked at
    jwt_secret: bytes | None = field(default=None, repr=False)
    #: what a caller without a token may do
    default_permissions: frozenset[str] = READ_ONLY
    #: quotas, lists of methods, look-backs; None for none
    gate: GateSettings | None = None
    #: API keys beside the tokens
    tenants: Tenants | None = field(default=None, repr=False)
    #: makes the buckets of rates that the processes of a machine may share
    make_bucket: MakeBucket = field(default=own_bucket, repr=False)
    #: new connections of one address in a minute; 0: any number
    conn_per_minute: int = 0
    #: networks of balancers whose X-Forwarded-For is believed
    trusted_proxies: tuple[str, ...] = PRIVATE
    #: whether connections of trusted balancers may begin with a PROXY header
    proxy_protocol: bool = False
    #: value of Access-Control-Allow-Origin, or "" for none
    cors_origin: str = "*"
    #: answer CORS preflights; Lotus does not, it answers an OPTIONS request like an empty one
    cors_preflight: bool = False

    @property
    def gzip_from(self) -> int:
        """The shortest answer that is sent in gzip's form: beyond all lengths where none is."""
        return self.gzip_from_bytes or sys.maxsize


def body_too_big(most: int) -> ParseError:
    """As go-jsonrpc has it."""
    return ParseError(f"request bigger than maximum {most} allowed", limit_data("max_body_mb", most))


def head_too_long(most: int) -> InvalidRequest:
    """The request line and headers."""
    return InvalidRequest("the request's head is too long", limit_data("head_bytes", most))


def batch_too_big(most: int, asked: int) -> InvalidRequest:
    """More requests than one batch may have."""
    text = f"batch of {asked} requests, at most {most} are answered"
    return InvalidRequest(text, limit_data("max_batch", most, asked))


def answer_too_big(most: int) -> LimitExceeded:
    """One answer."""
    text = f"the answer is longer than the {most} bytes allowed: ask for less at once"
    return LimitExceeded(text, limit_data("max_answer_mb", most))


def batch_answer_too_big(most: int) -> LimitExceeded:
    """All answers of a batch."""
    text = f"the answers to this batch are longer than {most} bytes together: ask for less at once"
    return LimitExceeded(text, limit_data("max_batch_answer_mb", most))


def make_admission(settings: ServerSettings, on_refusal: Callable[[str, str], object] | None = None) -> Admission:
    """The budgets of a process. `on_refusal`: see `rpc.admission.Budget`."""

    def budget(name: str, what: str, cap: int, client_cap: int) -> Budget:
        return Budget(name, what, cap, client_cap, on_refusal)

    def lane(cost: Cost, what: str, parallel: int, per_request: int) -> Lane:
        calls = budget(f"{cost.value}_calls", what, settings.lane_calls, settings.lane_calls_per_client)
        return Lane(calls, parallel, per_request, settings.lane_wait_seconds)

    connections = settings.max_connections, settings.max_connections_per_client
    return Admission(
        working=budget("working", "requests", settings.max_in_flight, settings.max_in_flight_per_client),
        waiting=budget("waiting", "waiting requests", settings.max_waiting, settings.max_waiting_per_client),
        channels=budget("channels", "open channels", settings.max_channels, settings.max_channels_per_client),
        connections=ConnectionBudget(
            "connections",
            "connections",
            *connections,
            on_refusal,
            per_minute=settings.conn_per_minute,
            make_bucket=settings.make_bucket,
        ),
        websockets=budget("websockets", "WebSocket sessions", *connections),
        memory=budget("memory", "bytes", settings.memory_budget_bytes, settings.memory_budget_bytes_per_client),
        lanes={
            Cost.SCAN.value: lane(Cost.SCAN, "requests that scan", settings.scan_parallel, 1),
            Cost.HEAVY.value: lane(Cost.HEAVY, "requests that walk whole trees", settings.heavy_parallel, 1),
            Cost.EXECUTE.value: lane(Cost.EXECUTE, "requests that execute", settings.execute_parallel, 8),
        },
    )
