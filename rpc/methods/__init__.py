"""One module a family of JSON-RPC methods; `register_all` imports them, which declares their methods."""

from __future__ import annotations

import importlib
import pkgutil


def register_all() -> None:
    """Declare every method there is. Composition roots call it once; a second call does nothing."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)
