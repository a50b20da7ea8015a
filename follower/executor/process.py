"""`follower execute`: builds an executor over the store, compiles the actors' code, serves."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Final

from blockstore.errors import StoreError
from chain.errors import ChainError
from chain.tipset import TipsetKey
from follower.executor.local import LocalExecutor
from follower.executor.server import ExecutorLimits, ExecutorServer
from follower.settings import Settings
from follower.worker import Sources, open_sources
from rpc.errors import RpcError
from rpc.executor import Place

log = logging.getLogger(__name__)

#: little: what runs read is kept in the machine's own cache (`execution_cache_mb`)
_OBJECT_CACHE_BYTES: Final = 16 << 20
#: seconds between two looks whether the head has other code than what is compiled
_COMPILE_SECONDS: Final = 10.0
#: seconds for runs to end after the process was told to stop
_EXIT_SECONDS: Final = 5.0
#: the workers go first: answers from the store are short
_NICENESS: Final = 5


async def run_executor(settings: Settings, path: Path, stop: asyncio.Event, *, with_parent: bool) -> int:
    """Serve at `path` until `stop`; with `with_parent` also until standard input ends."""
    os.nice(_NICENESS)
    sources = await open_sources(settings, stop, _OBJECT_CACHE_BYTES)
    if sources is None:
        return 0
    executor = LocalExecutor(
        sources.objects,
        sources.index,
        sources.network,
        threads=settings["execution_threads"],
        cache_bytes=settings["execution_cache_mb"] << 20,
        trace_entries=settings["execution_trace_entries"],
        message_bytes=settings["execution_message_mb"] << 20,
    )
    limits = ExecutorLimits(
        lanes=settings["execution_threads"],
        queue=settings["execution_queue"],
        run_seconds=settings["execution_seconds"],
        memory_bytes=settings["execution_memory_mb"] << 20,
    )
    server = ExecutorServer(executor, limits)
    tasks = [asyncio.create_task(_keep_compiled(executor, sources, server, path))]
    if with_parent:
        tasks.append(asyncio.create_task(_stop_with_parent(stop)))
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.close()
        await sources.close()
        # a machine cannot be interrupted, and the interpreter would wait for its thread
        last = threading.Timer(_EXIT_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()
    return 0


async def _keep_compiled(executor: LocalExecutor, sources: Sources, server: ExecutorServer, path: Path) -> None:
    """Compile the code of the head's actors, then listen; compile again when an upgrade has changed them."""
    compiled = 0
    told = ""
    while True:
        try:
            entry = await sources.store.head()
            if entry is not None:
                tipset = await sources.index.tipset(TipsetKey(entry.head.key))
                version = sources.network.version_at(tipset.height)
                if version != compiled:
                    place = Place(
                        tipset.parent_state_root,
                        tipset.height,
                        tipset.min_timestamp,
                        version,
                        sources.network.eth_chain_id,
                        tipset.parent_base_fee,
                        tipset.key,
                    )
                    await executor.compile(place)
                    if not compiled:
                        await server.start(path)
                        log.info("executing messages at %s, network version %d", path, version)
                    compiled = version
        except (ChainError, StoreError, RpcError) as error:
            if str(error) != told:
                told = str(error)
                log.warning("messages cannot be executed now: %s", told)
        await asyncio.sleep(_COMPILE_SECONDS)


async def _stop_with_parent(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends: the process that holds its other end has gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()
