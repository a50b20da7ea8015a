"""What the tree tests share: objects in a dictionary, with a count of round trips, and the vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from blockstore.cid import Cid
from blockstore.errors import Missing
from tests.support.paths import VECTORS

TREES: dict[str, Any] = json.loads((VECTORS / "trees.json").read_text())


class Heap:
    """An ObjectReader over a dictionary; `trips` counts its reads, `peak` is the largest of them."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.trips = 0
        self.peak = 0

    def put(self, cid: Cid, data: bytes) -> None:
        self.objects[cid] = data

    async def get(self, cid: bytes) -> bytes:
        return (await self.get_many([cid]))[0]

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        self.trips += 1
        self.peak = max(self.peak, len(cids))
        for cid in cids:
            if cid not in self.objects:
                raise Missing(Cid(cid))
        return [self.objects[cid] for cid in cids]


def cids() -> st.SearchStrategy[Cid]:
    return st.binary(min_size=32, max_size=32).map(lambda digest: Cid(b"\x01\x71\xa0\xe4\x02\x20" + digest))


def dag_cbor_values(max_leaves: int = 12) -> st.SearchStrategy[Any]:
    """Values that `chain.ipld.dag_cbor.encode` takes, links included."""
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=8)
    return st.recursive(
        leaves | cids(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=max_leaves,
    )


def plain(value: Any) -> Any:
    """A value as the fast decoder gives it: links are bytes."""
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def expand(values: dict[str, str]) -> dict[str, str]:
    """A vector's values, with a key "a..b" standing for the numbers from a up to b."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if ".." in key:
            low, high = key.split("..")
            for number in range(int(low), int(high)):
                out[str(number)] = str(number) if value == "same text as the key" else value
        else:
            out[key] = value
    return out
