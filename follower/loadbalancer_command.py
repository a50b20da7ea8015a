"""`follower loadbalancer haproxy|nginx`: the configuration of a balancer, from the fleet in the store."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from blockstore.open import open_store
from follower.settings import CannotRun, Settings, shared_options
from loadbalancer.files import replacing
from loadbalancer.fleet import SERVING, Member, read_fleet, recent
from loadbalancer.haproxy import haproxy_config
from loadbalancer.settings import BalancerSettings

log = logging.getLogger(__name__)


def loadbalancer_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes beside its settings."""
    parser.add_argument("kind", choices=("haproxy",), help="which balancer")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write, instead of standard output")
    parser.add_argument("--bind", default="0.0.0.0:1234", metavar="HOST:PORT", help="where clients come (%(default)s)")
    parser.add_argument("--certificate", default="", metavar="FILE", help="PEM file with chain and key, for TLS")


def run_loadbalancer(settings: Settings, args: argparse.Namespace) -> int:
    """Write the configuration. Errors: CannotRun, StoreError, OSError."""
    from follower.up import run_loop

    try:
        balancer = BalancerSettings(bind=args.bind, certificate=args.certificate)
    except ValueError as error:
        raise CannotRun(str(error)) from None
    return run_loop(_once(settings, args, balancer))


async def _once(settings: Settings, args: argparse.Namespace, balancer: BalancerSettings) -> int:
    """From one look at the fleet. Who lives is told by the time written in the rows, generously."""
    store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, shared=shared_options(settings))
    try:
        rows = await read_fleet(store)
    finally:
        await store.close()
    now = time.time_ns() // 1_000_000
    members: list[Member] = []
    for _, (member, _value) in sorted(rows.items()):
        if member.state != SERVING:
            log.warning("%s is left out: it is draining", member.address)
        elif not recent(member, now):
            log.warning("%s is left out: it has not renewed its registration for long", member.address)
        else:
            members.append(member)
    if not members:
        log.warning("no follower is registered in %s", settings["store"].rpartition("@")[2])
    text = haproxy_config(members, balancer)
    if args.output is None:
        sys.stdout.write(text)
    else:
        with replacing(args.output, text):
            pass
    return 0
