"""Recorded chains as objects in a dictionary, for tests of trees and state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
import zstandard

from blockstore.car.reader import CarFile, iter_car
from chain.block import BlockHeader, decode_header
from tests.chain.tree_tools import Heap
from tests.support.recorded import recorded


@lru_cache(maxsize=2)
def _objects(name: str) -> dict[bytes, bytes]:
    return {bytes(cid): data for cid, data in iter_car(recorded(name))}


def heap_of(name: str) -> Heap:
    """The objects of a recorded CAR file."""
    heap = Heap()
    heap.objects = dict(_objects(name))
    return heap


def head_of(folder: str) -> BlockHeader:
    """The first block of a recorded chain's head."""
    with CarFile(recorded(f"{folder}/chain.car.zst")) as reader:
        root = reader.roots[0]
    return decode_header(root, heap_of(f"{folder}/chain.car.zst").objects[root])


def calls(folder: str, *methods: str) -> Iterator[dict[str, Any]]:
    """The recorded calls of these methods."""
    with open(recorded(f"{folder}/rpc.jsonl.zst"), "rb") as file:
        for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines():
            call: dict[str, Any] = orjson.loads(line)
            if call["method"] in methods:
                yield call
