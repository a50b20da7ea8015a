"""`follower loadbalancer haproxy|nginx`: the configuration of a balancer, from the fleet in the store."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from blockstore.open import open_store
from blockstore.store import Store
from follower.commands.command import Command
from follower.commands.processes import run_loop, run_until_signal
from follower.settings import CannotRun, Settings, shared_options
from loadbalancer.control import Balancer, Haproxy, Nginx
from loadbalancer.files import replace_file
from loadbalancer.fleet import SERVING, FleetWatch, Member, is_recent, read_fleet
from loadbalancer.settings import BalancerSettings
from loadbalancer.watch import Watcher

log = logging.getLogger(__name__)

_MASTER: Final = "/run/haproxy-master.sock"


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Write the configuration, once or whenever the fleet changes. Errors: CannotRun, StoreError, OSError."""
    if args.watch and args.output is None:
        raise CannotRun("--watch needs --output: the file that the balancer reads")
    balancer = _balancer(args)
    if args.watch:
        return run_until_signal(lambda stop: _watch(settings, args, balancer, stop))
    return run_loop(_once(settings, args, balancer))


def _balancer(args: argparse.Namespace) -> Balancer:
    """Errors: CannotRun."""
    commands = {f"{name}_command": value for name in ("check", "reload") if (value := getattr(args, name))}
    try:
        told = BalancerSettings(args.bind, args.certificate, args.runtime_dir, args.keep_alive, args.send_proxy)
    except ValueError as error:
        raise CannotRun(str(error)) from None
    if args.kind == "nginx":
        return Nginx(told, **commands)
    return Haproxy(told, args.master_socket, **commands)


@contextlib.asynccontextmanager
async def _opened(settings: Settings, *, readonly: bool) -> AsyncIterator[Store]:
    shared = shared_options(settings)
    store = await open_store(
        settings["store"], readonly=readonly, map_size=settings["map_size_gb"] << 30, shared=shared
    )
    try:
        yield store
    finally:
        await store.close()


async def _once(settings: Settings, args: argparse.Namespace, balancer: Balancer) -> int:
    """From one look at the fleet. Who lives is told by the time written in the rows, generously."""
    async with _opened(settings, readonly=True) as store:
        rows = await read_fleet(store)
    now = time.time_ns() // 1_000_000
    members: list[Member] = []
    for _, (member, _value) in sorted(rows.items()):
        if member.state != SERVING:
            log.warning("%s is left out: it is draining", member.address)
        elif not is_recent(member, now):
            log.warning("%s is left out: it has not renewed its registration for long", member.address)
        else:
            members.append(member)
    if not members:
        log.warning("no follower is registered in this store")
    text = balancer.config(members, ())
    if args.output is None:
        sys.stdout.write(text)
    else:
        with replace_file(args.output, text):
            pass
    return 0


async def _watch(settings: Settings, args: argparse.Namespace, balancer: Balancer, stop: asyncio.Event) -> int:
    """Apply each change of the fleet until `stop` is set."""
    async with _opened(settings, readonly=False) as store:
        watcher = Watcher(FleetWatch(store, args.interval), balancer, args.output)
        await watcher.run(stop, args.interval)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The balancer, its file, and how it is told of changes."""
    parser.add_argument("kind", choices=("haproxy", "nginx"), help="which balancer")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write, instead of standard output")
    parser.add_argument("--watch", action="store_true", help="go on, and apply each change of the fleet")
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="between looks (%(default)s)"
    )
    parser.add_argument("--bind", default="0.0.0.0:1234", metavar="HOST:PORT", help="where clients come (%(default)s)")
    parser.add_argument("--certificate", default="", metavar="FILE", help="PEM file with chain and key, for TLS")
    parser.add_argument("--runtime-dir", default="", metavar="DIR", help="nginx: where its pid and temporary files are")
    parser.add_argument("--keep-alive", action="store_true", help="nginx: keep clients' connections between requests")
    parser.add_argument(
        "--send-proxy",
        action="store_true",
        help="name the client of each connection by a PROXY header (nginx then passes on TCP); needs proxy_protocol",
    )
    parser.add_argument(
        "--master-socket", type=Path, default=Path(_MASTER), metavar="FILE", help="HAProxy's master (%(default)s)"
    )
    parser.add_argument("--check", metavar="COMMAND", help="how a new {file} is checked, instead of the usual way")
    parser.add_argument("--reload", metavar="COMMAND", help="how the balancer is told, instead of the usual way")


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 60:
        raise argparse.ArgumentTypeError("must be from 0.05 to 60")
    return seconds


COMMAND: Final = Command(
    "loadbalancer",
    "The configuration of HAProxy or nginx, from the fleet in the store.",
    "follower loadbalancer haproxy --store cassandra://db1,db2/filecoin --output /etc/haproxy/haproxy.cfg",
    run,
    add_arguments,
)
