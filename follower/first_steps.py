"""What `follower up` says at its start: what it follows, where the store is, what is served where, when it is ready."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from follower.settings import Settings

_POLL: Final = 0.25
#: seconds between two lines while it is not ready
_PATIENCE: Final = 15.0
_HEAD: Final = re.compile(r"head (\d+), entry")


def served_at(settings: Settings) -> str:
    """HOST:PORT under which this machine reaches what is served."""
    host, _, port = settings["listen"].rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{host}:{port}"


def introduction(settings: Settings, follows: str, store: str) -> str:
    """A few lines for an operator. `follows`: the nodes, by name; `store`: its URL without credentials."""
    address = served_at(settings)
    lines = [
        f"follows  {follows}",
        f"store    {store}, state = {settings['state']}",
        f"serves   http://{address}/rpc/v1 (JSON-RPC, WebSocket), /metrics, /healthz",
    ]
    if settings["status_page"] != "off":
        lines.append(f"status   http://{address}/ in a browser, or: follower status --watch --listen {address}")
    return "\n".join([*lines, "Ctrl-C stops it."])


async def say_when_ready(address: str, say: Callable[[str], None]) -> None:
    """Ask the follower at `address` until it is ready, and say so; now and then say what it waits for."""
    began = said_at = time.monotonic()
    why = "the follower has not started to listen: its store holds no head yet"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            try:
                async with session.get(f"http://{address}/readyz?verbose") as answer:
                    text = (await answer.content.read(8192)).decode(errors="replace")
                if answer.status == 200:
                    head = _HEAD.search(text)
                    where = f", head epoch {head[1]}" if head else ""
                    say(f"ready after {time.monotonic() - began:.1f} s{where}")
                    return
                why = "; ".join(line[4:] for line in text.splitlines() if line.startswith("[!]"))
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            if time.monotonic() - said_at >= _PATIENCE:
                said_at = time.monotonic()
                say(f"not ready after {said_at - began:.0f} s: {why}")
            await asyncio.sleep(_POLL)
