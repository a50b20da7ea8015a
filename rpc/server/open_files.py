"""The process's limit of open files: each connection takes one."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger("follower.rpc")

#: files that are not connections of clients: the store, its drivers, full nodes, listeners
_OTHER_FILES: Final = 256


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and log it. Returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            # where the hard limit says "unlimited", a system may still have a bound of its own
            log.warning("the limit of open files stays at %d of %d: %s", soft, hard, error)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    log.info("open files: at most %d", soft)
    return soft


def connections_within(limit: int, wanted: int) -> int:
    """How many connections a process may have that can open `limit` files: `wanted`, or fewer, which is logged."""
    most = max(16, limit - _OTHER_FILES)
    if most < wanted:
        log.warning("max_connections is %d, but open files allow %d: raise the limit of open files", wanted, most)
    return min(most, wanted)
