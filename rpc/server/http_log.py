"""The log of the HTTP library, without what clients did wrong: a stranger must not fill the log."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError


class ServerFaults(logging.Filter):
    """Passes what the server did wrong; a request that is not HTTP is the client's fault, answered and not logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        fault = record.exc_info[1] if record.exc_info else None
        return not isinstance(fault, HttpProcessingError)


#: what aiohttp logs to
http_log: Final = logging.getLogger("follower.http")
http_log.addFilter(ServerFaults())
