"""Parts of an import: closing, spill files, ranges, progress."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import RAW, Cid, cid_of
from blockstore.errors import Missing
from blockstore.memory import MemoryStore
from blockstore.store import Held
from chain.ipld.dag_cbor import encode
from chain.tipset import TipsetKey
from leader_bridge.imports.closing import Closer, possible_links, verify_closed
from leader_bridge.imports.importer import import_car
from leader_bridge.imports.progress import Lines, reporting
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.store.coverage import merge_ranges


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 40), batch=st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_closed_is_exactly_what_is_held_whole(seed: int, size: int, batch: int) -> None:
    """A random graph with objects left out: what is closed has everything below it, and nothing else is."""
    rng = random.Random(seed)
    objects: list[tuple[Cid, bytes, list[int]]] = []
    for number in range(size):
        below = [rng.randrange(number) for _ in range(rng.randrange(4))] if number else []
        # a link inside a byte string is none
        hidden = encode(objects[rng.randrange(number)][0]) if number and rng.random() < 0.5 else b""
        raw = encode([number, hidden, {"a": [objects[at][0] for at in below]}])
        objects.append((cid_of(raw), raw, below))
    absent = {rng.randrange(size) for _ in range(rng.randrange(3))}
    whole: list[bool] = []
    for number, (_, _, below) in enumerate(objects):
        whole.append(number not in absent and all(whole[at] for at in below))
    roots = [rng.randrange(size) for _ in range(rng.randrange(1, 5))]

    async def check() -> None:
        store = MemoryStore()
        kept = [(cid.multihash, raw) for n, (cid, raw, _) in enumerate(objects) if n not in absent]
        await store.put_many(kept, closed=False)
        closer = Closer(store, batch=batch)
        done = await closer.close([objects[at][0] for at in roots])
        assert done.failed == {objects[at][0] for at in roots if not whole[at]}
        reached: set[int] = set()
        waiting = list(roots)
        while waiting:
            at = waiting.pop()
            if at not in reached and at not in absent:
                reached.add(at)
                waiting.extend(objects[at][2])
        for number, (cid, _, _) in enumerate(objects):
            (held,) = await store.held_many([cid.multihash])
            if held == Held.CLOSED:
                assert whole[number]
                assert await verify_closed(store, cid) > 0
            elif number in reached:
                assert not whole[number]
                with pytest.raises(Missing):
                    await verify_closed(store, cid)

    asyncio.run(check())


async def test_actor_code_may_be_absent_and_bytecode_not() -> None:
    code, state, bytecode = cid_of(b"wasm", RAW), encode([1]), cid_of(b"evm", RAW)
    actor = encode([[code, cid_of(state), 0, b""]])
    contract = encode([bytecode, bytes(32), cid_of(state), None, 1])
    store = MemoryStore()
    await store.put_many([(cid_of(raw).multihash, raw) for raw in (state, actor, contract)], closed=False)
    assert (await Closer(store).close([cid_of(actor), cid_of(contract)])).failed == {cid_of(contract)}
    strict = await Closer(store, actor_code=True).close([cid_of(contract)])
    assert strict.missing == [bytecode]
    await store.put_many([(bytecode.multihash, b"evm")], closed=True)
    assert not (await Closer(store).close([cid_of(contract)])).failed


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=300))
@settings(max_examples=30, deadline=None)
def test_spool(keys: list[bytes]) -> None:
    with KeySpillFile() as spool:
        for key in keys:
            spool.append(TipsetKey(key))
        assert spool.count == len(keys)
        assert list(spool.backwards()) == keys[::-1]


def test_long_spool() -> None:
    with KeySpillFile() as spool:
        for number in range(60_000):
            spool.append(TipsetKey(number.to_bytes(38 + number % 5, "big")))
        got = list(spool.backwards())
    assert [int.from_bytes(key, "big") for key in got] == list(range(59_999, -1, -1))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12))
@settings(max_examples=100)
def test_ranges(parts: list[tuple[int, int]]) -> None:
    ranges = [(low, low + more) for low, more in parts]
    out = merge_ranges(ranges)
    assert {n for low, high in out for n in range(low, high + 1)} == {
        n for low, high in ranges for n in range(low, high + 1)
    }
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(out))


async def test_progress_is_told_in_plain_lines(made: Path) -> None:
    out = io.StringIO()
    with reporting(out) as reporter:
        await import_car(MemoryStore(), made / "made.car", network_file=made / "network.json", progress=reporter)
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["objects", "headers", "tipsets"]
    assert "(100 %)" in lines[0]
    assert "MB/s" in lines[0]


def test_time_left_in_lines() -> None:
    out = io.StringIO()
    lines = Lines(out, every=0)
    lines.phase("objects", 1_000_000, "bytes")
    lines.at(0)
    lines.at(500_000, "7 objects")
    assert "0.5 MB of 1.0 MB (50 %)" in out.getvalue()
    assert "left, 7 objects" in out.getvalue()


def test_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with reporting(out) as reporter:
        reporter.phase("objects", 100, "bytes")
        reporter.at(0)
        reporter.at(100, "all of it")
        reporter.say("a word")
    assert "objects" in out.getvalue()
    assert "a word" in out.getvalue()


def test_a_link_behind_what_looks_like_one() -> None:
    """A byte string that ends like the beginning of a link hides none that follows."""
    target = cid_of(b"target")
    beginning = encode(target)[:11]
    raw = encode([beginning, target])
    assert list(possible_links(cid_of(raw), raw)) == [target]
