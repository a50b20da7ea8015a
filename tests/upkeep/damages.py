"""Damage done to a store on purpose, one kind after another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import orjson

from blockstore.cid import DAG_CBOR, Cid, cid_of
from blockstore.lmdb.store import LmdbStore
from blockstore.scan import object_pages, replace_objects, row_pages
from blockstore.scan_pages import StoredObject
from blockstore.store import (
    COVERAGE,
    ETH_TXS,
    EVENT_POSTINGS,
    EVENTS,
    HEIGHTS,
    MESSAGES,
    POST,
    TIPSETS,
    Batch,
    HeadEntry,
    Store,
    Table,
    TipsetRef,
)
from chain.index.chain_index import ChainIndex, decode_row, height_row
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.mirror import walked_links
from leader_bridge.upkeep.damage import Kind, cid_under


async def tipset_at(store: LmdbStore, epoch: int) -> Tipset:
    """The tipset of the published chain at an epoch."""
    entry = await store.head()
    assert entry is not None
    index = ChainIndex(store, Objects(store))
    return await index.at_height(await index.tipset(TipsetKey(entry.head.key)), epoch)


async def remove_object(store: LmdbStore, cid: Cid) -> None:
    for place in store._places:
        await place.environment.write(partial(_delete, database=place.objects, key=cid.multihash))


def _delete(txn: Any, database: Any, key: bytes) -> None:
    txn.delete(key, db=database)


async def put_row(store: LmdbStore, table: Table, partition: bytes, key: bytes, value: bytes) -> None:
    await store.write(Batch([(table, partition, key, value)]))


async def remove_row(store: LmdbStore, table: Table, partition: bytes, key: bytes) -> None:
    batch = Batch()
    batch.delete(table, partition, key)
    await store.write(batch)


async def state_leaf(store: LmdbStore, epoch: int) -> tuple[Cid, bytes]:
    """An object without links of a state, another one for another epoch, and its bytes."""
    waiting = [(await tipset_at(store, epoch)).parent_state_root]
    leaves: list[tuple[Cid, bytes]] = []
    while waiting:
        cid = waiting.pop(0)
        data = await store.get(cid.multihash)
        assert data is not None
        links = [link for link in walked_links(cid, data) if link.codec == DAG_CBOR]
        waiting += links
        if not links and (cid, data) not in leaves:
            leaves.append((cid, data))
        if len(leaves) == 40:
            break
    return leaves[epoch % len(leaves)]


async def row_number(store: LmdbStore, table: Table, number: int) -> tuple[bytes, bytes, bytes]:
    async for page in row_pages(store, table):
        return page.rows[number]
    raise AssertionError(f"{table.name} has no rows")


# --- objects ---------------------------------------------------------------------------------------------


async def flipped_byte(store: LmdbStore, epoch: int) -> str:
    cid, data = await state_leaf(store, epoch)
    await replace_objects(store, [StoredObject(cid.multihash, bytes((data[0] ^ 1,)) + data[1:], True)])
    return str(cid)


async def truncated(store: LmdbStore, epoch: int) -> str:
    cid, data = await state_leaf(store, epoch)
    await replace_objects(store, [StoredObject(cid.multihash, data[:-3], True)])
    return str(cid)


async def bytes_of_another(store: LmdbStore, epoch: int) -> str:
    cid, _ = await state_leaf(store, epoch)
    other = await store.get((await tipset_at(store, epoch)).key.cids[0].multihash)
    await replace_objects(store, [StoredObject(cid.multihash, other, True)])
    return str(cid)


async def unreadable(store: LmdbStore, epoch: int) -> str:
    """The root of the actors' tree, whose compressed form is damaged: reading it is an error."""
    state = (await tipset_at(store, epoch)).parent_state_root
    data = await store.get(state.multihash)
    cid = Cid(decode(data or b"")[1])
    for place in store._places:
        if (await place.held_many([cid.multihash]))[0]:
            await place.environment.write(partial(_put, database=place.objects, key=cid.multihash))
    return str(cid)


def _put(txn: Any, database: Any, key: bytes) -> None:
    value = txn.get(key, db=database)
    assert value[0] == 3, "it is not compressed"
    txn.put(key, value[:40] + b"\xff" * 20 + value[60:], db=database)


async def removed_under_a_closed_one(store: LmdbStore, epoch: int) -> str:
    cid, _ = await state_leaf(store, epoch)
    await remove_object(store, cid)
    return str(cid)


async def lost_header(store: LmdbStore, epoch: int) -> str:
    cid = (await tipset_at(store, epoch)).key.cids[0]
    await remove_object(store, cid)
    return str(cid)


async def state_that_is_not_there(store: LmdbStore, epoch: int) -> str:
    """The row's flag stands, the root is gone: no object of the store links to it."""
    tipset = await tipset_at(store, epoch)
    await remove_object(store, tipset.parent_state_root)
    return f"{tipset.key} of epoch {tipset.height}, state"


# --- rows ------------------------------------------------------------------------------------------------


async def wrong_parent(store: LmdbStore, epoch: int) -> str:
    return await _change_row(store, epoch, parent=(await tipset_at(store, 20)).key)


async def wrong_height(store: LmdbStore, epoch: int) -> str:
    return await _change_row(store, epoch, height=epoch + 5)


async def wrong_skip(store: LmdbStore, epoch: int) -> str:
    other = await tipset_at(store, 11)
    return await _change_row(store, epoch, skips=((other.height, other.key),))


async def _change_row(store: LmdbStore, epoch: int, **changes: object) -> str:
    tipset = await tipset_at(store, epoch)
    value = await store.row(TIPSETS, tipset.key.cid, b"")
    assert value is not None
    row = replace(decode_row(value), **changes)  # type: ignore[arg-type]
    await put_row(store, TIPSETS, tipset.key.cid, b"", row.encode())
    return str(tipset.key)


async def lost_tipset_row(store: LmdbStore, epoch: int) -> str:
    tipset = await tipset_at(store, epoch)
    await remove_row(store, TIPSETS, tipset.key.cid, b"")
    return str(tipset.key)


async def lost_height_row(store: LmdbStore, epoch: int) -> str:
    tipset = await tipset_at(store, epoch)
    partition, prefix = height_row(tipset.height)
    await remove_row(store, HEIGHTS, partition, prefix + tipset.key.cid)
    return f"epoch {tipset.height}, tipset {tipset.key.cid}"


async def lost_post_row(store: LmdbStore, epoch: int) -> str:
    tipset = await tipset_at(store, epoch)
    await remove_row(store, POST, tipset.key.cid, b"")
    return f"tipset {tipset.key.cid}"


async def post_of_another(store: LmdbStore, epoch: int) -> str:
    tipset = await tipset_at(store, epoch)
    other = await store.row(POST, (await tipset_at(store, 20)).key.cid, b"")
    await put_row(store, POST, tipset.key.cid, b"", other or b"")
    return f"tipset {tipset.key.cid}"


async def lost_message_row(store: LmdbStore, epoch: int) -> str:
    partition, key, _ = await row_number(store, MESSAGES, epoch % 100)
    await remove_row(store, MESSAGES, partition, key)
    return str(Cid(partition))


async def message_in_another_epoch(store: LmdbStore, epoch: int) -> str:
    partition, key, value = await row_number(store, MESSAGES, epoch % 100)
    await put_row(store, MESSAGES, partition, (epoch + 9).to_bytes(8, "big") + key[8:], value)
    return str(Cid(partition))


async def eth_hash_of_another(store: LmdbStore, epoch: int) -> str:
    partition, key, value = await row_number(store, ETH_TXS, epoch % 100)
    _, _, other = await row_number(store, ETH_TXS, epoch % 100 + 1)
    assert other != value
    await put_row(store, ETH_TXS, partition, key, other)
    return "0x" + partition.hex()


async def lost_event_chunk(store: LmdbStore, epoch: int) -> str:
    partition, key, _ = await row_number(store, EVENTS, epoch % 100)
    await remove_row(store, EVENTS, partition, key)
    return f"epoch {int.from_bytes(key[:8], 'big')}"


async def lost_posting(store: LmdbStore, epoch: int) -> str:
    partition, key, _ = await row_number(store, EVENT_POSTINGS, epoch % 100)
    await remove_row(store, EVENT_POSTINGS, partition, key)
    return f"epoch {int.from_bytes(key[:8], 'big')}"


async def coverage_that_claims_too_much(store: LmdbStore, epoch: int) -> str:
    await put_row(store, COVERAGE, b"", TIPSETS_INDEX, orjson.dumps([[0, 5000]]))
    return TIPSETS_INDEX.decode()


async def head_of_an_unknown_tipset(store: LmdbStore, epoch: int) -> str:
    entry = await store.head()
    assert entry is not None
    unknown = TipsetRef(entry.head.height + 1, TipsetKey.of([cid_of(b"no block")]))
    await store.append_head(HeadEntry(entry.seq + 1, entry.term, (), (unknown,), unknown))
    return f"entry {entry.seq + 1}"


@dataclass(frozen=True, slots=True)
class Damaging:
    """One kind of damage: what does it at an epoch and tells its name, and what a check calls it."""

    do: Callable[[LmdbStore, int], Awaitable[str]]
    kind: Kind


DAMAGES: Final = (
    Damaging(flipped_byte, Kind.OBJECT),
    Damaging(truncated, Kind.OBJECT),
    Damaging(bytes_of_another, Kind.OBJECT),
    Damaging(unreadable, Kind.OBJECT),
    Damaging(removed_under_a_closed_one, Kind.MISSING),
    Damaging(lost_header, Kind.MISSING),
    Damaging(state_that_is_not_there, Kind.HELD),
    Damaging(wrong_parent, Kind.TIPSET),
    Damaging(wrong_height, Kind.TIPSET),
    Damaging(wrong_skip, Kind.TIPSET),
    Damaging(lost_tipset_row, Kind.TIPSET),
    Damaging(lost_height_row, Kind.HEIGHT),
    Damaging(lost_post_row, Kind.POST),
    Damaging(post_of_another, Kind.POST),
    Damaging(lost_message_row, Kind.MESSAGE),
    Damaging(message_in_another_epoch, Kind.MESSAGE),
    Damaging(eth_hash_of_another, Kind.ETH_TX),
    Damaging(lost_event_chunk, Kind.EVENT),
    Damaging(lost_posting, Kind.EVENT),
    Damaging(coverage_that_claims_too_much, Kind.COVERAGE),
    Damaging(head_of_an_unknown_tipset, Kind.HEAD_LOG),
)


#: ten kinds and more that one store can have at once
TOGETHER: Final = [
    damage
    for damage in DAMAGES
    if damage.do not in (lost_tipset_row, wrong_skip, wrong_height, lost_message_row, lost_posting)
]


async def everything(store: Store, tables: Sequence[Table]) -> dict[str, object]:
    """All objects and all rows of some tables."""
    found: dict[str, Any] = {}
    async for page in object_pages(store):
        for one in page.objects:
            # what an import stored in the current generation, headers, is in the lasting place too
            _, was_closed = found.get(name := str(cid_under(one.multihash)), (b"", False))
            found[name] = (one.data, one.closed or was_closed)
    for table in tables:
        async for rows in row_pages(store, table):
            found.update({f"{table.name} {p.hex()} {k.hex()}": value for p, k, value in rows.rows})
    return found
