"""libp2p peer IDs as JSON has them. Source: go-libp2p `core/peer`."""

from __future__ import annotations

from blockstore.cid import base58_encode, multihash_end
from blockstore.errors import BadCid


def peer_id_text(data: bytes) -> str | None:
    """The base58 form of a peer ID; None for bytes that are no multihash."""
    try:
        if not data or multihash_end(data, 0) != len(data):
            return None
    except BadCid:
        return None
    return base58_encode(data)
