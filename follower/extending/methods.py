"""Declares the RPC methods that other installed packages add, beside those of `rpc.methods`."""

from __future__ import annotations

import logging

from blockstore.extensions import METHODS, find_extensions
from rpc.registry import REGISTRY

log = logging.getLogger(__name__)


def load_methods() -> None:
    """Import each module that an entry point names. Call it after `register_all`; a second call does nothing.

    Errors: BadExtension, for a module that cannot be imported or declares a name that exists.
    """
    for extension in find_extensions(METHODS):
        before = len(REGISTRY)
        extension.load()
        added = len(REGISTRY) - before
        if added:
            log.info("package %s adds %d methods (%s)", extension.package, added, extension.point.value)
