"""The executor as a child of the process that serves: started, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from follower.child_command import start_command
from follower.executor.client import RemoteExecutor
from follower.settings import CannotRun, Settings

log = logging.getLogger(__name__)

MODULE: Final = "lotus_follower_execution"
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
#: after a life of so many seconds the delay is the first one again
_HEALTHY_SECONDS: Final = 60.0


def is_executing(settings: Settings) -> bool:
    """Whether messages are executed here. Errors: CannotRun (`execution = on` without the extension)."""
    if settings["execution"] == "off":
        return False
    installed = importlib.util.find_spec(MODULE) is not None
    if not installed and settings["execution"] == "on":
        raise CannotRun(
            "execution is on, but the virtual machine is not installed: run `make execution`,"
            " or `pip install lotus-follower[execution]`"
        )
    return installed


@contextlib.asynccontextmanager
async def executor_of(settings: Settings) -> AsyncIterator[RemoteExecutor | None]:
    """The executor of this process: the one at `executor_socket`, else one of its own; None where there is none."""
    if settings["executor_socket"]:
        client = RemoteExecutor(Path(settings["executor_socket"]))
        try:
            yield client
        finally:
            await client.close()
        return
    if not is_executing(settings):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="follower-executor-") as folder:
        path = Path(folder, "executor.sock")
        environment = {**settings.environment(), "FOLLOWER_EXECUTOR_SOCKET": str(path)}
        running = asyncio.create_task(_keep_running(environment))
        client = RemoteExecutor(path)
        try:
            yield client
        finally:
            await client.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _keep_running(environment: Mapping[str, str]) -> None:
    """Start the executor, and again when it ends, until cancelled."""
    pause = _FIRST_DELAY_SECONDS
    while True:
        began = time.monotonic()
        process = await start_command(("execute", "--with-parent"), environment, stdin=asyncio.subprocess.PIPE)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            raise
        if time.monotonic() - began > _HEALTHY_SECONDS:
            pause = _FIRST_DELAY_SECONDS
        log.warning("the executor ended with code %s, starting it again in %.1f s", code, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_DELAY_SECONDS)
