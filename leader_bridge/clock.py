"""The clock that every wait of the bridge is measured by: the event loop's, so that tests can let it jump."""

from __future__ import annotations

import asyncio


def monotonic() -> float:
    """Seconds of the running loop's clock, which never goes back."""
    return asyncio.get_running_loop().time()
