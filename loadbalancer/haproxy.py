"""Makes a whole HAProxy configuration from the members of a fleet. Needs HAProxy 2.6 or later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from loadbalancer.fleet import Member
from loadbalancer.settings import (
    HEALTH_PATHS,
    LAST_RESORT_PATH,
    RPC_PATHS,
    WRITES,
    BalancerSettings,
    body_limit,
    body_too_large_answer,
    describe,
    no_follower_answer,
)

#: what HAProxy asks for its own health, answered by itself
MONITOR: Final = "/balancer/healthz"

_TEMPLATE: Final = """\
# Written by `follower loadbalancer haproxy` from the fleet in the store. Your changes are lost.
# Start HAProxy with a master (`haproxy -Ws -S /run/haproxy-master.sock -f FILE`, as Debian's unit does), so that
# `--watch` can reload it without dropping a connection.

global
    log stdout format raw local0 notice
    # (no maxconn: HAProxy takes as many connections as its limit of open files allows)
    # A request can be retried when it fits in a buffer. Larger ones (big batches) are sent once.
    tune.bufsize 32768
    # After a reload the former process keeps its WebSockets for so long; then their clients connect again.
    hard-stop-after 30m
    mworker-max-reloads 20

defaults
    mode http
    log global
    option httplog
    # log errors, not every request
    option dontlog-normal

    # A request without an answer, or answered 503 (the follower drains, or has no head that it may serve), goes to
    # another follower. One whose answer has begun or takes long does not.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response 503

    timeout connect 1s
    timeout check 3s
    # for a whole request
    timeout http-request 30s
    # between two requests of a connection; followers wait 5 minutes
    timeout http-keep-alive 60s
    timeout client 60s
    # the longest answer: whole trees, StateWaitMsg
    timeout server 10m
    timeout queue 10s
    # WebSockets: followers ping every 30 seconds, so a silent one is dead
    timeout tunnel 2h
    timeout client-fin 30s
    # in a reload an idle client connection is closed after its next answer, never during a request
    option idle-close-on-response
    http-error status 503 content-type application/json string '{nobody}'

frontend rpc
    bind {bind}
    # HAProxy's own health, for a balancer in front of it
    monitor-uri {monitor}
    acl none_ready nbsrv(followers) lt 1
    monitor fail if none_ready {{ nbsrv(last_resort) lt 1 }}

    acl rpc path {rpc}
    acl health path {health}
    http-request return status 404 content-type text/plain string "404 page not found\\n" unless rpc or health
    # the followers' limit and their answer
    http-request return status 500 content-type application/json string '{too_big}' if {{ req.body_size gt {limit} }}

    # The client's address replaces what the client wrote there.
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto {proto}

    # Reads may be retried. Calls that send a message or poll a filter are retried only when the connection failed.
    # The whole body is searched, so batches count too.
    http-request wait-for-body time 30s if rpc {{ method POST PUT }}
    acl writes req.body -m sub -i {writes}
    http-request disable-l7-retry if writes
    # When no follower is ready, those whose head is behind or old answer: better than none. HAProxy logs "backend
    # followers has no server available"; X-Filecoin-Head-Age in each answer is the age of its head.
    use_backend last_resort if none_ready
    default_backend followers

backend followers
    # no sticky sessions: the head does not go back from one follower to another
    balance roundrobin
    # Ready: alive, whole, and with a head that is near the newest one. Draining: not ready.
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host follower
    http-check expect status 200
    # a failed connection brings the next check forward
    default-server check inter 1s fastinter 250ms downinter 1s fall 2 rise 1 observe layer4 on-error fastinter
    # the agent of a follower that is behind asks for 1 % of its weight
    default-server weight 100
    default-server init-addr last,libc,none
{servers}

backend last_resort
    # every follower that is whole, however far behind
    balance roundrobin
    option httpchk
    http-check send meth GET uri {last_resort} ver HTTP/1.1 hdr Host follower
    http-check expect status 200
    default-server check inter 1s fastinter 250ms downinter 1s fall 2 rise 1 observe layer4 on-error fastinter
    default-server init-addr last,libc,none
{last_servers}
"""


_NONE: Final = "    # no follower is registered"


def haproxy_config(members: Sequence[Member], settings: BalancerSettings | None = None) -> str:
    """The file's text. The same members give the same text. Errors: those of BalancerSettings."""
    settings = settings or BalancerSettings()
    bind = settings.bind
    if settings.certificate:
        bind += f" ssl crt {settings.certificate} alpn h2,http/1.1"
    limit = body_limit(members)
    return _TEMPLATE.format(
        bind=bind,
        health=" ".join(HEALTH_PATHS),
        limit=limit,
        monitor=MONITOR,
        nobody=no_follower_answer(),
        proto="https" if settings.certificate else "http",
        rpc=" ".join(RPC_PATHS),
        last_resort=LAST_RESORT_PATH,
        servers="\n".join(_server(member, settings, agent=True) for member in members) or _NONE,
        last_servers="\n".join(_server(member, settings, agent=False) for member in members) or _NONE,
        too_big=body_too_large_answer(limit),
        writes=" ".join(WRITES),
    )


def _server(member: Member, settings: BalancerSettings, *, agent: bool) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]", "_", member.address)
    check = f" agent-check agent-port {member.agent_port} agent-inter 1s" if agent and member.agent_port else ""
    # (a check has a header too, which says that it is the balancer's own)
    proxied = " send-proxy-v2 check-send-proxy" if settings.proxy_protocol else ""
    return f"    # {describe(member)}\n    server {name} {member.address}{check}{proxied}"
