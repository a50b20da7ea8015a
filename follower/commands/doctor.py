"""`follower doctor`: look at everything that this machine needs before it starts, and say what to do."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import shutil
import socket
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from blockstore.errors import BadExtension, StoreError
from blockstore.extensions import METHODS, STORES, TIPSET_HOOKS, find_extensions
from follower.commands.command import DONE, FAILED, Command
from follower.settings import Settings, shared_options, split_listen
from rpc.release import DISTRIBUTION, software_version

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

_MARKS: Final = {OK: "[ok]", WARNING: "[! ]", PROBLEM: "[x ]"}
_LEAST_DISK_GIB: Final = 10
_OTHER_FILES: Final = 256
_OLD_HEAD_EPOCHS: Final = 10
#: seconds for each look at the store or a node
_LOOK_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found. `do`: what the operator does about it; "" where nothing is to do."""

    name: str
    level: str
    text: str
    do: str = ""


def find_versions(settings: Settings) -> Iterator[Finding]:
    """The software and the libraries that it needs."""
    yield Finding("version", OK, f"{DISTRIBUTION} {software_version()}, Python {platform.python_version()}")
    missing = []
    try:
        needed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        yield Finding("libraries", WARNING, "the package is not installed", "run `make test`, or pip install .")
        return
    for requirement in needed:
        if "extra ==" in requirement or "win32" in requirement:
            continue
        name = next(iter(requirement.replace("<", " ").replace(">", " ").replace("=", " ").split()))
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding(
            "libraries", PROBLEM, f"not installed: {', '.join(missing)}", "pip install -r requirements/run.txt"
        )


def find_extensions_that_fail(settings: Settings) -> Iterator[Finding]:
    """What other packages add."""
    try:
        added = [one for group in (METHODS, STORES, TIPSET_HOOKS) for one in find_extensions(group)]
        if added:
            from rpc.methods import register_all

            register_all()
        for one in added:
            one.load()
    except BadExtension as error:
        yield Finding("extensions", PROBLEM, str(error), "see docs/extending.md")
        return
    if added:
        yield Finding("extensions", OK, ", ".join(f"{one.package} ({one.name})" for one in added))


def find_file_limit(settings: Settings) -> Iterator[Finding]:
    """Whether the process may open a file for each connection."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = settings["max_connections"] + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        do = f"set LimitNOFILE={wanted} in the unit (`ulimit -Hn {wanted}` in a shell), or lower max_connections"
        yield Finding("open files", WARNING, f"at most {hard}, max_connections needs {wanted}", do)
    else:
        yield Finding("open files", OK, f"at most {hard if hard != resource.RLIM_INFINITY else 'any number'}")


def find_secret(settings: Settings) -> Iterator[Finding]:
    """The file of the tokens' secret: there, long enough, private."""
    name = settings["jwt_secret_file"]
    if not name:
        return
    try:
        file = Path(name)
        mode = file.stat().st_mode
        size = len(file.read_bytes().strip())
    except OSError as error:
        yield Finding("secret", PROBLEM, f"jwt_secret_file {name}: {error.strerror}", "correct jwt_secret_file")
        return
    if size < 16:
        do = f"head -c 32 /dev/urandom | base64 > {name}"
        yield Finding("secret", PROBLEM, f"jwt_secret_file {name}: fewer than 16 bytes", do)
    elif mode & (stat.S_IRGRP | stat.S_IROTH):
        yield Finding("secret", WARNING, f"jwt_secret_file {name}: other users may read it", f"chmod 600 {name}")
    else:
        yield Finding("secret", OK, f"jwt_secret_file {name}")


def find_port(settings: Settings) -> Iterator[Finding]:
    """Whether `listen` can be used; a follower that answers there is fine."""
    listen = settings["listen"]
    host, port = split_listen(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if _is_follower("127.0.0.1" if host in ("0.0.0.0", "::") else host, port):
            yield Finding("listen", OK, f"a follower answers at {listen}")
            return
        do = f"`ss -ltnp 'sport = :{port}'` shows who has it; stop that, or set listen to another HOST:PORT"
        yield Finding("listen", PROBLEM, f"{listen}: {error.strerror or error}", do)
    else:
        yield Finding("listen", OK, f"{listen} is free")


def _is_follower(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/livez?verbose", timeout=3) as answer:
            return DISTRIBUTION.encode() in answer.read(4096)
    except (OSError, ValueError):
        return False


def find_folder(settings: Settings) -> Iterator[Finding]:
    """An LMDB store's folder: writable, with room."""
    scheme, _, rest = settings["store"].partition("://")
    if scheme != "lmdb":
        return
    folder = Path(rest).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    user = f"{os.getuid()}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        do = f"give it to the user that runs this (`chown {user} {folder}`), or set store to another folder"
        yield Finding("folder", PROBLEM, f"{folder} cannot be written: {error.strerror}", do)
        return
    free = shutil.disk_usage(folder).free >> 30
    if free < _LEAST_DISK_GIB:
        yield Finding("folder", WARNING, f"{folder}: {free} GiB are free", "make room, or set store to a larger disk")
    else:
        yield Finding("folder", OK, f"{folder} can be written, {free} GiB are free")


async def find_store_and_nodes(settings: Settings) -> list[Finding]:
    """The store, its clock, its network, and each node's network and head."""
    from blockstore.open import open_store
    from blockstore.store import META
    from blockstore.store_clock import ClockOff, StoreClock
    from chain.network import NetworkRecord, load_network

    found: list[Finding] = []
    network: NetworkRecord | None = None
    try:
        store = await open_store(settings["store"], readonly=True, shared=shared_options(settings))
    except StoreError as error:
        if settings["store"].startswith("lmdb://") and "has not been made yet" in str(error):
            found.append(Finding("store", WARNING, str(error), "start a bridge or an import: it makes the store"))
        else:
            do = "check the address, the firewall, and that `follower schema --apply` has run"
            found.append(Finding("store", PROBLEM, str(error), do))
    else:
        try:
            network = await load_network(store)
            head = await store.head()
            if await store.row(META, b"", b"import") is not None:
                do = "run the same import again: it goes on where it stopped"
                found.append(Finding("store", PROBLEM, "an import into it has not finished", do))
            elif network is None or head is None:
                do = "start a bridge, and look at its log"
                found.append(Finding("store", WARNING, f"{store.url} holds no head yet", do))
            else:
                found.append(Finding("store", OK, f"{store.url}: {network.name}, epoch {head.head.height}"))
            clock_ms = getattr(store, "clock_ms", None)
            if clock_ms is not None:
                try:
                    await StoreClock(clock_ms, settings["epsilon_ms"]).require_accurate()
                    found.append(Finding("clock", OK, "within epsilon_ms of the store's"))
                except ClockOff as error:
                    found.append(Finding("clock", PROBLEM, str(error), "start NTP: `systemctl enable --now chrony`"))
        except StoreError as error:
            found.append(Finding("store", PROBLEM, str(error), "look at the database"))
        finally:
            await store.close()
    found += await _find_nodes(settings, network)
    return found


async def _find_nodes(settings: Settings, network: object) -> list[Finding]:
    from chain.network import NetworkRecord
    from leader_bridge.follow.network import network_identity
    from leader_bridge.nodes.subscription import fetch_chain_head
    from rpc.client.client import NodeClient
    from rpc.client.node_info import parse_node_info
    from rpc.node_errors import NodeError

    if not settings["node"]:
        do = "set node or FULLNODE_API_INFO, unless this machine only serves"
        return [Finding("node", WARNING, "no full node is named", do)]
    found = []
    for info in parse_node_info(settings["node"]):
        name = f"node {info.name}"
        try:
            async with NodeClient(info, timeout=settings["node_timeout_seconds"]) as client:
                called, genesis, _ = await network_identity(client)
                head = await fetch_chain_head(client)
                block = await client.call("Filecoin.ChainGetBlock", {"/": str(head.key.cids[0])})
        except NodeError as error:
            do = "check that it runs, its address and its token; a public endpoint ends in /rpc/v1"
            found.append(Finding(name, PROBLEM, str(error), do))
            continue
        if isinstance(network, NetworkRecord) and (network.genesis, network.name) != (genesis, called):
            text = f"is of network {called} (genesis {genesis}), the store of {network.name} ({network.genesis})"
            found.append(Finding(name, PROBLEM, text, "correct node, or name another store"))
            continue
        delay = network.block_delay if isinstance(network, NetworkRecord) else 30
        age = time.time() - block["Timestamp"]
        text = f"{called}, epoch {head.height}, {age:.0f} s old"
        if age > _OLD_HEAD_EPOCHS * delay:
            do = "wait until the node is in sync (`lotus sync wait`), or name another one"
            found.append(Finding(name, WARNING, f"{text}: it is not in sync", do))
        elif age < -delay:
            do = "set this machine's clock: `systemctl enable --now chrony`"
            found.append(Finding("clock", PROBLEM, f"the head of {name} is {-age:.0f} s in the future", do))
        else:
            found.append(Finding(name, OK, text))
    return found


#: each look yields what it finds, and needs nothing that another has found
LOOKS: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    find_versions,
    find_extensions_that_fail,
    find_file_limit,
    find_secret,
    find_port,
    find_folder,
)


async def _within(work: Awaitable[list[Finding]], seconds: float) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return [Finding("store and nodes", PROBLEM, f"no answer within {seconds:g} s", "check addresses and firewall")]


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 where there is a problem."""
    findings = [finding for look in LOOKS for finding in look(settings)]
    seconds = _LOOK_SECONDS + settings["node_timeout_seconds"]
    findings += asyncio.run(_within(find_store_and_nodes(settings), seconds))
    for one in findings:
        print(f"{_MARKS[one.level]} {one.name}: {one.text}")
        if one.do:
            print(f"       do: {one.do}")
    problems = sum(one.level == PROBLEM for one in findings)
    warnings = sum(one.level == WARNING for one in findings)
    print(f"{problems} problems, {warnings} warnings")
    return FAILED if problems else DONE


COMMAND: Final = Command(
    "doctor",
    "Check this machine, the store and the nodes before a start, and say what to do.",
    "follower doctor --node $FULLNODE_API_INFO --store lmdb:///var/lib/follower",
    run,
)
