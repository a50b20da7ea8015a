"""What no recorded chain has: removed actors. And what only the bytes of a message tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from blockstore.cid import parse
from blockstore.memory import MemoryStore
from chain.actors.load import States
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage
from leader_bridge.tables.actors import ACTOR_STATES, ACTORS
from leader_bridge.tables.blocks import BLOCK_HEADERS
from leader_bridge.tables.executed import GAS_OUTPUTS, PARSED_MESSAGES, RECEIPTS
from leader_bridge.tables.extract import extract_tipset
from leader_bridge.tables.messages import MESSAGES
from leader_bridge.tables.multiaddr import multiaddr_text
from leader_bridge.tables.sinks.opening import open_sink
from leader_bridge.tables.source import Change, TableSource, TipsetView
from leader_bridge.tables.table import Row, Task
from tests.support.tables.places import KINDS, new_place
from tests.tables.conftest import StoreOf, TablesOf


async def _rows(task: Task, view: TipsetView) -> list[Row]:
    return [row async for part in task.rows(view) for row in part]


async def _tipset(store: MemoryStore, height: int) -> tuple[TableSource, Tipset, Tipset]:
    """(source, a tipset, its child)."""
    source = await TableSource.open(store)
    head = await source.head()
    child = await source.index.at_height(head, height + 1, previous=False)
    return source, await source.index.parent(child), child


async def test_a_removed_actor_has_nothing(store_of: StoreOf) -> None:
    source, tipset, _ = await _tipset(await store_of("devnet"), 600)

    class Removing(TipsetView):
        """Every actor that has changed is removed instead."""

        async def changes(self) -> AsyncIterator[list[Change]]:
            async for part in super().changes():
                yield [(address, old, None) for address, old, _ in part if old is not None]

    real = {row[1]: row for row in await _rows(ACTORS, source.view(tipset))}
    removed = await _rows(ACTORS, Removing(source, tipset, None))
    assert removed
    for row in removed:
        named = dict(zip(ACTORS.table.names, row, strict=True))
        assert (named["balance"], named["state"]) == ("0", None)
        assert (named["code"], named["code_cid"]) == (real[named["id"]][3], real[named["id"]][8])
    assert await _rows(ACTOR_STATES, Removing(source, tipset, None)) == []


async def test_a_receiver_that_is_gone_after_the_tipset(store_of: StoreOf) -> None:
    """Its kind is known from the state before: parameters and returns are decoded all the same."""
    store = await store_of("devnet")
    compared = 0
    for height in range(600, 640):
        source, tipset, child = await _tipset(store, height)
        genesis = await source.index.at_height(tipset, 0)

        class Gone(TipsetView):
            """The state after the tipset is that of the genesis, which has no receiver."""

            async def child_states(self) -> States:
                return await self._load_states(genesis)  # noqa: B023  # used before the next turn

        right = await _rows(PARSED_MESSAGES, source.view(tipset, child))
        # a contract that the tipset made is in neither
        made = {row[1] for row in right if row[5] == "CreateExternal"}
        if not made:
            assert await _rows(PARSED_MESSAGES, Gone(source, tipset, child)) == right
            returns = await _rows(RECEIPTS, source.view(child))
            assert await _rows(RECEIPTS, TipsetView(source, child, None, Gone(source, tipset, child))) == returns
            compared += sum(row[6] is not None for row in right)
    assert compared >= 5


async def test_the_size_of_a_message_is_that_of_its_bytes(store_of: StoreOf, tables_of: TablesOf) -> None:
    """Its CID names the bytes that stand on chain: of signed messages with their signature."""
    store = await store_of("devnet")
    rows = (await tables_of("devnet", "parquet")).rows(MESSAGES.table)
    assert len(rows) == 1500
    for row in rows:
        data = await store.get(parse(row["cid"]).multihash)
        assert data is not None
        assert row["size_bytes"] == len(data)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_method_of_64_bits(kind: str, store_of: StoreOf, tmp_path: Path) -> None:
    """Anybody may put such a message on chain: its rows are made like all others."""
    store = await store_of("devnet")
    source, tipset, child = await _tipset(store, 600)

    class Odd(TipsetView):
        """Every message calls the highest method."""

        async def messages(self) -> Sequence[IncludedMessage]:
            return [self._odd(one) for one in await super().messages()]

        async def block_messages(self) -> list[tuple[list[IncludedMessage], list[IncludedMessage]]]:
            return [
                ([self._odd(one) for one in bls], [self._odd(one) for one in others])
                for bls, others in await super().block_messages()
            ]

        def _odd(self, one: IncludedMessage) -> IncludedMessage:
            return replace(one, message=replace(one.message, method=(1 << 64) - 1))

    tasks = [MESSAGES, GAS_OUTPUTS, PARSED_MESSAGES]
    place = new_place(kind, lambda: tmp_path)
    sink = await open_sink(place.url, [task.table for task in tasks])
    await sink.begin(tipset.height, tipset.height, tasks)
    for task in tasks:
        assert await extract_tipset(sink, task, Odd(source, tipset, child))
    await sink.end()
    await sink.close()
    assert {row["method"] for task in tasks[:2] for row in place.rows(task.table)} == {-1}
    assert "18446744073709551615" in {row["method"] for row in place.rows(PARSED_MESSAGES.table)}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flag_of_64_bits_in_a_header(kind: str, store_of: StoreOf, tmp_path: Path) -> None:
    """A miner may set any: no rule of the chain says what it is."""
    store = await store_of("devnet")
    source, tipset, child = await _tipset(store, 600)
    odd = Tipset.of([replace(block, fork_signaling=(1 << 64) - 2) for block in tipset.blocks])
    place = new_place(kind, lambda: tmp_path)
    sink = await open_sink(place.url, [BLOCK_HEADERS.table])
    await sink.begin(odd.height, odd.height, [BLOCK_HEADERS])
    assert await extract_tipset(sink, BLOCK_HEADERS, source.view(odd, child))
    await sink.end()
    await sink.close()
    assert {row["fork_signaling"] for row in place.rows(BLOCK_HEADERS.table)} == {-2}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("047f000001060fa1", "/ip4/127.0.0.1/tcp/4001"),
        ("290000000000000000000000000000000191020fa1cd03", "/ip6/::1/udp/4001/quic-v1"),
        ("36096c6f63616c686f7374060050dd03", "/dns4/localhost/tcp/80/ws"),
        ("a5030400010203", "/p2p/1Ldp"),
        ("", "0x"),
        ("047f0000", "0x047f0000"),
        ("ff7f00", "0xff7f00"),
    ],
)
def test_multiaddresses(data: str, text: str) -> None:
    assert multiaddr_text(bytes.fromhex(data)) == text
