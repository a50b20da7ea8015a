"""A whole nginx configuration from the members of a fleet. Works with nginx 1.18 and later, without modules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from loadbalancer.fleet import Member
from loadbalancer.settings import BalancerSettings, body_limit, body_too_large_answer, describe, no_follower_answer

_TEMPLATE: Final = """\
# Written by `follower loadbalancer nginx` from the fleet in the store: what is changed here is lost.
# nginx asks no follower about its health by itself. It leaves alone for 2 seconds one that failed; `--watch`
# asks each follower's /readyz, marks here who is behind (`backup`: a last resort) or not ready (`down`), and has nginx
# read this file again.

worker_processes auto;
error_log stderr warn;
{files}# after a reload the former workers go on with what they have: WebSockets for so long
worker_shutdown_timeout 30m;

events {{
    worker_connections 4096;
}}

http {{
    access_log off;
    server_tokens off;
{temporary}
    # WebSockets say so; for all else the connection to the follower is kept
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}

    upstream followers {{
        # round robin over all workers of nginx; no stickiness: the head does not go back from one to another
        zone followers 512k;
{servers}
        keepalive 64;
    }}

    server {{
        listen {bind};{tls}

        # the followers' own limit, in their own words
        client_max_body_size {limit};
        error_page 413 =500 @too_big;
        error_page 502 504 =503 @nobody;

{keep_alive}
        client_header_timeout 30s;
        client_body_timeout 30s;
        client_body_buffer_size 128k;

        location ~ ^/rpc/v[012]$ {{
            proxy_pass http://followers;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            # The client's address. What a client wrote there itself is not passed on.
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;

            # A request that got no answer, or 503 (a follower that drains, or has no head that it may serve), goes
            # to another follower. `non_idempotent`: calls are POSTs, which nginx would not send again otherwise, and
            # it cannot tell a read from a MpoolPush. Followers serve no call that pays twice when sent twice: they
            # pass on signed messages only, and a signed message has its nonce. Its sender may be told of the second
            # one that it is known already. HAProxy tells them apart: `follower loadbalancer haproxy`.
            proxy_next_upstream error timeout http_503 non_idempotent;
            proxy_next_upstream_tries 4;
            # nothing is sent again that was worked on for longer
            proxy_next_upstream_timeout 10s;
            proxy_connect_timeout 1s;
            # the longest answer (whole trees, StateWaitMsg), and a WebSocket's silence: followers ping every 30 seconds
            proxy_read_timeout 10m;
            proxy_send_timeout 60s;
            # the body is read whole first, else it could not be sent to another follower
            proxy_request_buffering on;
            proxy_buffers 16 32k;
            proxy_buffer_size 32k;
            proxy_max_temp_file_size 0;
        }}

        # the followers' health, of whichever is asked
        location ~ ^/((health/)?(livez|readyz)|healthz)$ {{
            proxy_pass http://followers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout http_503;
            proxy_connect_timeout 1s;
            proxy_read_timeout 5s;
        }}

        # nginx's own health, for what stands before it
        location = /balancer/healthz {{
            default_type text/plain;
            return 200 "ok\\n";
        }}

        location @too_big {{
            default_type application/json;
            return 500 '{too_big}';
        }}

        location @nobody {{
            default_type application/json;
            return 503 '{nobody}';
        }}

        location / {{
            default_type text/plain;
            return 404 "404 page not found\\n";
        }}
    }}
}}
"""
_KINDS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_config(
    members: Sequence[Member],
    settings: BalancerSettings | None = None,
    down: Collection[str] = (),
    behind: Collection[str] = (),
) -> str:
    """The file's text. The same input gives the same text.

    Members whose address is in `down` get no requests, those in `behind` get them where no other member answers.
    """
    settings = settings or BalancerSettings()
    limit = body_limit(members)
    folder = settings.runtime_dir
    has_better = any(member.address not in down and member.address not in behind for member in members)
    tls = ""
    if settings.certificate:
        tls = f"\n        ssl_certificate {settings.certificate};\n        ssl_certificate_key {settings.certificate};"
    return _TEMPLATE.format(
        keep_alive=_KEEP if settings.keep_alive else _CLOSE,
        bind=settings.bind + (" ssl" if settings.certificate else ""),
        files=f"pid {folder}/nginx.pid;\n" if folder else "pid /run/nginx.pid;\n",
        limit=limit,
        nobody=no_follower_answer(),
        servers="\n".join(_server(member, down, behind, has_better) for member in members) or _NONE,
        temporary="".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in _KINDS) if folder else "",
        tls=tls,
        too_big=body_too_large_answer(limit),
    )


_CLOSE: Final = """\
        # A reload closes idle connections at once, under a request that is on its way too. So none is idle:
        # each answer ends its connection (`--keep-alive` keeps them).
        keepalive_timeout 0;"""
_KEEP: Final = """\
        # a reload closes idle connections at once, under a request that is on its way too: clients send it again
        keepalive_timeout 75s;
        keepalive_requests 1000000;"""
#: nginx wants at least one
_NONE: Final = "        # no follower is registered\n        server 127.0.0.1:9 down;"


def _server(member: Member, down: Collection[str], behind: Collection[str], has_better: bool) -> str:
    how, note = "max_fails=1 fail_timeout=2s", ""
    if member.address in down:
        how, note = "down", " (not ready)"
    elif member.address in behind:
        # nginx refuses a file where all are backups
        how, note = how + (" backup" if has_better else ""), " (behind)"
    return f"        # {describe(member)}{note}\n        server {member.address} {how};"
