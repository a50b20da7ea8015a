"""What a client is told of an object that an answer needs and that the store lacks.

An object that the client named itself is "ipld: could not find", as at Lotus. One that it did not name is part of the
state, receipts or events that this follower does not hold: a full node would have it.
"""

from __future__ import annotations

from typing import Any

from blockstore.cid import Cid
from blockstore.errors import BadCid, Missing
from chain.errors import NotHeld
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey


def not_held(objects: Objects, error: Missing, what: str = "", kept: str = "") -> NotHeld:
    """The error for an object that `what` (the state, the receipts of an epoch, …) is made of. `kept`: what is held."""
    node = ", and no full node that was asked has it" if objects.is_lazy else "; a full node would have it"
    absent = str(error).removesuffix(" is not held") + (f"; {kept}" if kept else "") + node
    return NotHeld(f"{what}: {absent}" if what else absent)


def is_named(value: Any, key: bytes) -> bool:
    """Whether a parameter, decoded or as it came, names the object `key` (its CID or multihash)."""
    if isinstance(value, TipsetKey):
        return any(is_named(cid, key) for cid in value.cids)
    if isinstance(value, Cid):
        return value == key or (bool(value) and value.multihash == _multihash(key))
    if isinstance(value, list | tuple):
        return any(is_named(item, key) for item in value)
    if isinstance(value, dict):
        return any(is_named(item, key) for item in value.values())
    return isinstance(value, str) and isinstance(key, Cid) and str(key) in value


def _multihash(key: bytes) -> bytes:
    try:
        return key.multihash if isinstance(key, Cid) else key
    except BadCid:
        return b""
