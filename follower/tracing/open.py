"""Opens the tracing that the settings ask for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from blockstore.store import Store
from blockstore.tier.sources import RankedSources
from follower.settings import CannotRun, Settings
from rpc.release import software_version
from rpc.server.server import Server

if TYPE_CHECKING:
    from rpc.server.observe.tracing import Tracing

#: what a stopping process may take to send the spans that wait, in seconds
FLUSH_SECONDS: Final = 3.0
_DEFAULT_PATH: Final = "/v1/traces"


def spans_url(endpoint: str) -> str:
    """Where spans are sent: OTLP's path behind a URL that has none."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else urlunsplit(parts._replace(path=_DEFAULT_PATH))


def open_tracing(settings: Settings, network: str) -> Tracing | None:
    """The tracing; None where no endpoint is set. Errors: CannotRun (the libraries are not installed)."""
    endpoint: str = settings["tracing_endpoint"]
    if not endpoint:
        return None
    try:
        from rpc.server.observe.tracing import Tracing
    except ImportError as error:
        raise CannotRun(
            f"tracing_endpoint is set, but {error.name} is not installed: pip install lotus-follower[tracing]"
        ) from None
    resource = {
        "service.name": "lotus-follower",
        "service.version": software_version(),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        "filecoin.network": network,
    }
    return Tracing(spans_url(endpoint), settings["tracing_sample"], resource)


@contextlib.asynccontextmanager
async def traced(
    settings: Settings, server: Server, network: str, store: Store, ranked: Iterable[RankedSources[Any]]
) -> AsyncIterator[None]:
    """Trace the calls of a server within the block, where the settings ask for it. Errors: CannotRun."""
    tracing = open_tracing(settings, network)
    if tracing is None:
        yield
        return
    from follower.tracing.reads import note_source_reads, note_store_reads

    note_store_reads(store)
    note_source_reads(ranked)
    tracing.register(server.metrics)
    server.trace(tracing)
    try:
        yield
    finally:
        await asyncio.to_thread(tracing.close, FLUSH_SECONDS)
