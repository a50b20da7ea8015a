"""What the long-running subcommands share: the event loop, signals, a metrics port, child processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from blockstore.extensions import TIPSET_HOOKS, find_extensions
from follower.executor.child import is_executing
from follower.settings import Settings, split_listen
from follower.supervisor import Child


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine to its end on uvloop; its result is the exit code."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `work(stop)` on uvloop; SIGINT or SIGTERM sets `stop`."""

    async def run() -> int:
        stop = asyncio.Event()
        set_on_signals(stop)
        return await work(stop)

    return run_loop(run())


def set_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)


def worker_children(
    settings: Settings, environment: dict[str, str], config: Path | None, folder: Path, starts_after: str = ""
) -> list[Child]:
    """The serving processes to supervise: `workers` of them. `starts_after`: see `Child`.

    The file in which they count rates together, in `folder`, goes into `environment`.
    """
    if not settings["rates_file"]:
        environment["FOLLOWER_RATES_FILE"] = str(folder / "rates")
    arguments = ["serve", "--one", *config_arguments(config)]
    return [
        Child(f"worker {number}", arguments, environment, stage=2, starts_after=starts_after)
        for number in range(1, settings["workers"] + 1)
    ]


def executor_children(
    settings: Settings, environment: dict[str, str], config: Path | None, folder: Path
) -> list[Child]:
    """The executor to supervise, where messages are executed; its socket, in `folder`, goes into `environment`."""
    if settings["executor_socket"] or not is_executing(settings):
        return []
    environment["FOLLOWER_EXECUTOR_SOCKET"] = str(folder / "executor.sock")
    return [Child("executor", ["execute", *config_arguments(config)], environment, stage=1)]


def hook_children(environment: dict[str, str], config: Path | None) -> list[Child]:
    """The process that runs hooks, where an installed package adds one. It never ends the others."""
    if not find_extensions(TIPSET_HOOKS):
        return []
    return [Child("hooks", ["hooks", "--one", *config_arguments(config)], environment, fatal=frozenset(), stage=2)]


def config_arguments(config: Path | None) -> list[str]:
    """The flag that passes the settings file on to a child process."""
    return [] if config is None else ["--config", str(config)]


@contextlib.asynccontextmanager
async def metrics_server(listen: str) -> AsyncIterator[None]:
    """Serve the process's Prometheus metrics at HOST:PORT; nothing where `listen` is empty. Errors: OSError."""
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
