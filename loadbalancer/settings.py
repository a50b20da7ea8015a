"""The operator's settings of a balancer, and what both kinds of configuration share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadbalancer.fleet import BadAddress, Member, split_address

#: the paths for clients; others (metrics) do not go through a balancer
RPC_PATHS: Final = ("/rpc/v0", "/rpc/v1", "/rpc/v2")
HEALTH_PATHS: Final = ("/health/livez", "/health/readyz", "/livez", "/readyz", "/healthz")

#: 200 from a follower whose answers are right, also where its head is behind or old
LAST_RESORT_PATH: Final = "/readyz?last-resort"

#: words in a request that must not be sent twice: it sends a message, or polls a filter
WRITES: Final = ("Push", "SendRawTransaction", "FilterChanges")

#: where no member is registered: Lotus' own limit
_BODY: Final = 100 << 20
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]+\Z")


@dataclass(frozen=True, slots=True)
class BalancerSettings:
    """`bind` is HOST:PORT, `certificate` a PEM file (chain and key) or empty.

    `runtime_dir` is where nginx keeps its pid and temporary files; empty: where it was built to. `keep_alive`: whether
    nginx keeps its clients' connections between requests, which a reload may close under a request on its way.
    `proxy_protocol`: whether connections to followers begin with a PROXY header: HAProxy's of version 2, nginx' of
    version 1, which then passes on TCP.
    """

    bind: str = "0.0.0.0:1234"
    certificate: str = ""
    runtime_dir: str = ""
    keep_alive: bool = False
    proxy_protocol: bool = False

    def __post_init__(self) -> None:
        """Errors: BadAddress, ValueError (a path that a configuration file cannot hold)."""
        split_address(self.bind)
        for path in (self.certificate, self.runtime_dir):
            if path and not _PLAIN.match(path):
                raise ValueError(f"{path!r}: blanks and quotes cannot stand in a configuration file's path")


def body_limit(members: Sequence[Member]) -> int:
    """The largest request body, in bytes, that every member takes."""
    return min((member.max_body for member in members), default=_BODY)


def body_too_large_answer(limit: int) -> str:
    """What a follower answers to a larger body, so that a client sees one node."""
    text = f"request bigger than maximum {limit} allowed"
    data = f'{{"limit":"max_body_mb","most":{limit}}}'
    return f'{{"error":{{"code":-32700,"data":{data},"message":"{text}"}},"id":null,"jsonrpc":"2.0"}}'


def no_follower_answer() -> str:
    """The answer where no follower takes requests; code as EIP-1474 has it."""
    return '{"error":{"code":-32002,"message":"no follower is ready now: try again"},"id":null,"jsonrpc":"2.0"}'


def describe(member: Member) -> str:
    """A member in a few words, for a comment."""
    return f"{member.address} {member.version}".strip()


__all__ = ["BadAddress", "BalancerSettings", "body_limit", "body_too_large_answer", "describe", "no_follower_answer"]
