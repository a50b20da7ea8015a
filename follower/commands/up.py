"""The processes behind the command line: bridge, workers, import, and all of it at once.

The only module, with the command line, that imports both `follower` and `leader_bridge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from blockstore.open import open_store
from follower.membership import membership
from follower.settings import CannotRun, Settings, shared_options, split_listen
from follower.supervisor import Child, Supervisor
from follower.worker import run_worker

if TYPE_CHECKING:
    from leader_bridge.bridge import Bridge

log = logging.getLogger(__name__)

CALIBNET_HINT: Final = (
    "No node is named, so a simulated one is followed. To follow calibnet instead:\n"
    "  FULLNODE_API_INFO=https://api.calibration.node.glif.io/rpc/v1 FOLLOWER_STATE=lazy make run"
)


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _config_arguments(config: Path | None) -> list[str]:
    return [] if config is None else ["--config", str(config)]


def serve(settings: Settings, *, config: Path | None, one: bool) -> int:
    """`follower serve`: one worker in this process, or several under a supervisor."""
    if one or settings["workers"] == 1:

        def started(url: str) -> None:
            if not one:
                print(f"serving {settings['store']} at {url}", flush=True)

        return run_loop(run_worker(settings, started=started))
    membership(settings, "")  # its errors are for here, not for each worker to tell
    print(f"serving {settings['store']} at http://{settings['listen']}/rpc/v1", flush=True)
    workers = _workers(settings, settings.environment(), config)
    return run_loop(Supervisor(workers, stop_seconds=settings["drain_seconds"] + 10).run())


def _workers(settings: Settings, environment: dict[str, str], config: Path | None) -> list[Child]:
    return [
        Child(f"worker {number}", ["serve", "--one", *_config_arguments(config)], environment, stage=2)
        for number in range(1, settings["workers"] + 1)
    ]


def up(settings: Settings, *, config: Path | None) -> int:
    """`follower up`: a bridge and its workers; with no node named, a simulated one too."""
    environment = settings.environment()
    children: list[Child] = []
    with contextlib.ExitStack() as stack:
        if not settings["node"]:
            # a simulated chain is new at every start, so its store is too (unless one was named)
            if settings.source("store") == "default":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="follower-simulated-"))
                environment["FOLLOWER_STORE"] = f"lmdb://{folder}"
            node = f"127.0.0.1:{_free_port()}"
            environment["FOLLOWER_NODE"] = f"http://{node}"
            children.append(Child("simulated node", ["simulate", "--listen", node], environment))
            print(CALIBNET_HINT, flush=True)
        children.append(Child("bridge", ["bridge", *_config_arguments(config)], environment, stage=1))
        children += _workers(settings, environment, config)
        print(f"answering at http://{settings['listen']}/rpc/v1 (Ctrl-C stops it)", flush=True)
        return run_loop(Supervisor(children, stop_seconds=settings["drain_seconds"] + 10).run())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_bridge(settings: Settings) -> int:
    """`follower bridge`: follow until SIGINT or SIGTERM."""
    from leader_bridge.bridge import Bridge, BridgeSettings
    from leader_bridge.follow.lease import LeaseStore, lead
    from rpc.client.node_info import parse_node_info

    if not settings["node"]:
        raise CannotRun("no node to follow: give --node, FULLNODE_API_INFO, or 'node' in the settings file")

    async def run() -> int:
        shared = replace(shared_options(settings), make=True)
        store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, shared=shared)
        # random: a process that is started again is not the one that held the lease
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

        def bridge() -> Bridge:
            return Bridge(
                store,
                parse_node_info(settings["node"]),
                BridgeSettings(
                    state=settings["state"],
                    backfill=settings["backfill"],
                    actor_code=settings["actor_code"],
                    network_file=Path(settings["network_file"]) if settings["network_file"] else None,
                    fetch_concurrency=settings["fetch_concurrency"],
                    fetch_batch=settings["fetch_batch"],
                    node_timeout=settings["node_timeout"],
                    poll_interval=settings["poll_interval"],
                    traces=settings["traces"] == "on",
                    trace_lookback=settings["trace_lookback"],
                    owner=owner,
                ),
            )

        stop = asyncio.Event()
        on_signals(stop)
        try:
            async with metrics_server(settings["metrics_listen"]):
                if isinstance(store, LeaseStore):
                    await lead(store, bridge, owner, settings["lease_seconds"], stop)
                else:
                    await _until_stopped(bridge(), stop)
        finally:
            await store.close()
        return 0

    return run_loop(run())


async def _until_stopped(bridge: Bridge, stop: asyncio.Event) -> None:
    """Follow until `stop` is set. Errors: what `Bridge.run` raises, Fenced too."""
    following = asyncio.create_task(bridge.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
        bridge.stop()
        await following
    finally:
        stopped.cancel()


def run_import(settings: Settings, file: Path, *, index: bool) -> int:
    """`follower import FILE`: read a CAR into the store; `-` is standard input."""
    from leader_bridge.imports.importer import import_car
    from leader_bridge.imports.progress import reporting

    network_file = Path(settings["network_file"]) if settings["network_file"] else None

    async def run() -> int:
        shared = replace(shared_options(settings), make=True)
        store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, bulk=True, shared=shared)
        try:
            with reporting() as progress:
                done = await import_car(store, str(file), network_file=network_file, progress=progress, index=index)
        finally:
            await store.close()
        print(f"imported {done.objects:,} objects, {done.object_bytes:,} bytes, into {settings['store']}")
        if done.network is not None:
            print(f"network {done.network.name}, {done.tipsets:,} tipsets, epochs {done.lowest} to {done.height}")
        return 0

    return run_loop(run())


@contextlib.asynccontextmanager
async def metrics_server(listen: str) -> AsyncIterator[None]:
    """The process's Prometheus metrics at HOST:PORT; nothing where that is empty."""
    if not listen:
        yield
        return
    from prometheus_client import start_http_server

    host, port = split_listen(listen)
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
