"""What the rows of a store say of one chain: the rows of its tipsets, whatever stands beside them of forks."""

from __future__ import annotations

from dataclasses import replace

from blockstore.store import COVERAGE, ETH_TXS, EVENT_POSTINGS, EVENTS, HEIGHTS, MESSAGES, POST, TIPSETS, Store, Table
from chain.errors import ChainError
from chain.eth.transaction import eth_tx, is_eth
from chain.eth.types import hash_of
from chain.index.chain_index import ChainIndex, decode_row, height_row
from chain.index.event_rows import (
    at_key,
    chunk_row,
    decode_group,
    decode_mark,
    emitter_term,
    groups_in,
    mark_partition,
    posting_partition,
    value_term,
)
from chain.ipld.objects import Objects
from chain.message import decode_signed_message
from chain.network import load_network
from chain.state.tipset_events import INDEXED
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids

Rows = dict[tuple[str, bytes, bytes], bytes | None]


async def visible_rows(store: Store, head: TipsetKey, *, down_to: int = 0) -> Rows:
    """Every index row that a request on this head may come to, by (table, partition, key)."""
    found: Rows = {}
    pointers: set[tuple[int, TipsetKey]] = set()
    chain: set[tuple[int, TipsetKey]] = set()

    async def take(table: Table, partition: bytes, key: bytes) -> bytes | None:
        value = found[table.name, partition, key] = await store.row(table, partition, key)
        return value

    network = await load_network(store)
    assert network is not None
    objects = Objects(store)
    index = ChainIndex(store, objects, network)
    tipset = await index.tipset(head)
    child: Tipset | None = None
    while tipset.height >= down_to:
        cid = tipset.key.cid
        row = await take(TIPSETS, cid, b"")
        if row is not None:
            # skip pointers are short cuts: a row that was written while less was held has fewer
            decoded = decode_row(row)
            pointers |= set(decoded.skips)
            found[TIPSETS.name, cid, b""] = replace(decoded, skips=()).encode()
        chain.add((tipset.height, tipset.key))
        partition, prefix = height_row(tipset.height)
        await take(HEIGHTS, partition, prefix + cid)
        for block in tipset.blocks:
            bls, signed = await load_message_cids(objects, block.messages)
            for message in (*bls, *signed):
                await take(MESSAGES, bytes(message), tipset.height.to_bytes(8, "big") + cid)
            for message in signed:
                one = decode_signed_message(await objects.get(message))
                if is_eth(one):
                    try:
                        digest = eth_tx(one, network.eth_chain_id).hash
                    except ChainError:
                        continue
                    await take(ETH_TXS, digest, b"")
        if child is not None:
            await take(POST, cid, b"")
            key = at_key(tipset.height, hash_of(cid))
            mark = await take(COVERAGE, mark_partition(tipset.height), key)
            for chunk in range(decode_mark(mark)[1] if mark else 0):
                data = await take(EVENTS, *chunk_row(tipset.height, hash_of(cid), chunk))
                assert data is not None
                for place in range(groups_in(data)):
                    for event in (one.event for one in decode_group(data, place)):
                        terms = [
                            value_term(entry.key, entry.codec, entry.value)
                            for entry in event.entries
                            if entry.flags & INDEXED
                        ]
                        for term in (emitter_term(event.address), *terms):
                            await take(EVENT_POSTINGS, posting_partition(term, tipset.height), key)
        if tipset.height == 0:
            break
        child, tipset = tipset, await index.parent(tipset)
    assert {pointer for pointer in pointers if pointer[0] >= down_to} <= chain, "a skip pointer leads off the chain"
    return found
