"""Makes a whole nginx configuration from the members of a fleet. Needs nginx 1.18 or later.

With `proxy_protocol` nginx passes on TCP, which needs its stream module; else it balances HTTP and needs no module.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from loadbalancer.fleet import Member
from loadbalancer.settings import BalancerSettings, body_limit, body_too_large_answer, describe, no_follower_answer

_TEMPLATE: Final = """\
# Written by `follower loadbalancer nginx` from the fleet in the store. Your changes are lost.
# nginx does not check health. It skips a follower for 2 seconds after a failure. `--watch` asks each follower's
# /readyz, marks here who is behind (`backup`: a last resort) or not ready (`down`), and reloads nginx.

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
    # connections to followers are kept open, but for WebSockets
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}

    upstream followers {{
        # round robin over all nginx workers; no sticky sessions: the head does not go back from one to another
        zone followers 512k;
{servers}
        keepalive 64;
    }}

    server {{
        listen {bind};{tls}

        # the followers' limit and their answer
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
            # The client's address replaces what the client wrote there.
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;

            # A request without an answer, or answered 503 (the follower drains, or has no head that it may serve),
            # goes to another follower. `non_idempotent`: calls are POSTs, which nginx does not retry otherwise. It
            # cannot tell a read from a MpoolPush, so it retries both. Followers forward signed messages only: with
            # its nonce a message is executed once; the sender may read that it is already known. HAProxy does not
            # retry such calls: `follower loadbalancer haproxy`.
            proxy_next_upstream error timeout http_503 non_idempotent;
            proxy_next_upstream_tries 4;
            # no retry after this time
            proxy_next_upstream_timeout 10s;
            proxy_connect_timeout 1s;
            # the longest answer (whole trees, StateWaitMsg), and a WebSocket's silence: followers ping every 30 seconds
            proxy_read_timeout 10m;
            proxy_send_timeout 60s;
            # nginx reads the whole body first, so that it can retry
            proxy_request_buffering on;
            proxy_buffers 16 32k;
            proxy_buffer_size 32k;
            proxy_max_temp_file_size 0;
        }}

        # the health of one of the followers
        location ~ ^/((health/)?(livez|readyz)|healthz)$ {{
            proxy_pass http://followers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout http_503;
            proxy_connect_timeout 1s;
            proxy_read_timeout 5s;
        }}

        # nginx's own health, for a balancer in front of it
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
_STREAM: Final = """\
# Written by `follower loadbalancer nginx --send-proxy` from the fleet in the store. Your changes are lost.
# nginx passes on TCP and names the client of each connection by a PROXY header. It does not read HTTP: requests stay
# with the follower of their connection, none is sent again, and clients reach all paths of a follower, /metrics too.

worker_processes auto;
error_log stderr warn;
{files}# the stream module, where it is a package of its own (Debian: libnginx-mod-stream)
include /etc/nginx/modules-enabled/*.conf;
worker_shutdown_timeout 30m;

events {{
    worker_connections 4096;
}}

stream {{
    upstream followers {{
        zone followers 512k;
{servers}
    }}

    server {{
        listen {bind};{tls}
        proxy_pass followers;
        # version 1; followers need the setting proxy_protocol
        proxy_protocol on;
        proxy_connect_timeout 1s;
        # a WebSocket's silence: followers ping every 30 seconds
        proxy_timeout 10m;
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
    files = f"pid {folder}/nginx.pid;\n" if folder else "pid /run/nginx.pid;\n"
    servers = "\n".join(_server(member, down, behind, has_better) for member in members) or _NONE
    bind = settings.bind + (" ssl" if settings.certificate else "")
    if settings.proxy_protocol:
        return _STREAM.format(bind=bind, files=files, servers=servers, tls=tls)
    return _TEMPLATE.format(
        keep_alive=_KEEP if settings.keep_alive else _CLOSE,
        bind=bind,
        files=files,
        limit=limit,
        nobody=no_follower_answer(),
        servers=servers,
        temporary="".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in _KINDS) if folder else "",
        tls=tls,
        too_big=body_too_large_answer(limit),
    )


_CLOSE: Final = """\
        # A reload closes idle connections at once, also when a request is on its way. So each answer closes its
        # connection (`--keep-alive` keeps it open).
        keepalive_timeout 0;"""
_KEEP: Final = """\
        # a reload closes idle connections at once: clients must retry a request that was on its way
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
