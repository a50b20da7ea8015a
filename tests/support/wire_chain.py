"""Services over the recorded chain, loaded into memory: for tests that compare whole answers."""

from __future__ import annotations

import io
from pathlib import Path

import zstandard

from blockstore.cid import Cid, read_cid, read_uvarint
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry, TipsetRef
from chain.block import decode_header
from chain.index.chain_index import ChainIndex
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import Objects
from chain.network import read_network_file
from chain.tipset import Tipset
from rpc.services import Head, Services
from tests.support.wire_node import Heads


def read_car(path: Path) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
    """(roots, objects) of a CARv1 file under zstd."""
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(io.BufferedReader(file)).read()
    size, at = read_uvarint(data, 0)
    roots = [Cid(root) for root in decode(data[at : at + size])["roots"]]
    at += size
    objects = []
    while at < len(data):
        size, at = read_uvarint(data, at)
        cid, start = read_cid(data, at)
        objects.append((cid, data[start : at + size]))
        at += size
    return roots, objects


async def recorded_services(folder: Path) -> Services:
    """A node that stands at the head of a recorded chain; no index rows."""
    roots, objects = read_car(folder / "chain.car.zst")
    store = MemoryStore()
    await store.put_many(((cid.multihash, data) for cid, data in objects), closed=True)
    by_cid = dict(objects)
    tipset = Tipset.of([decode_header(root, by_cid[root]) for root in roots])
    genesis = tipset.blocks[0]
    while genesis.height:
        genesis = decode_header(genesis.parents[0], by_cid[genesis.parents[0]])
    network = read_network_file(folder / "network.json", genesis.cid)
    reader = Objects(store)
    heads = Heads()
    ref = TipsetRef(tipset.height, tipset.key)
    heads.head = Head(1, HeadEntry(1, 1, (), (ref,), ref), tipset)
    return Services(
        store=store,
        index=ChainIndex(store, reader, network),
        objects=reader,
        network=network,
        head_source=heads,
    )
