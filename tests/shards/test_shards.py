"""Cutting, proving and joining, without sockets."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import cid_of
from blockstore.errors import BadCar
from blockstore.memory import MemoryStore
from blockstore.shards.erasure import MOST_BYTES, BadShards, cut, join
from blockstore.shards.inbox import Inbox, Outcome
from blockstore.shards.manifest import (
    RING,
    Manifest,
    Shard,
    check_name,
    decode_manifest,
    load_manifests,
    proven,
    save_manifest,
)
from blockstore.shards.merkle import is_proven
from blockstore.shards.objects import pack, unpack
from tests.support.paths import ROOT


def made(piece: bytes, data: int = 16, parity: int = 4, number: int = 0) -> tuple[Manifest, list[Shard]]:
    root, shards = proven(cut(piece, data, parity))
    return Manifest(root, len(piece), data, parity, number), shards


def test_any_four_of_twenty_may_be_lost() -> None:
    piece = random.Random(1).randbytes(100_003)
    shards = cut(piece)
    assert len(shards) == 20
    for lost in itertools.combinations(range(20), 4):
        left = [one for index, one in enumerate(shards) if index not in lost]
        random.Random(str(lost)).shuffle(left)
        assert join(left, len(piece), 16, 4) == piece
    with pytest.raises(BadShards, match="15 shards, and 16 are needed"):
        join(shards[5:], len(piece), 16, 4)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=4000), st.integers(1, 20), st.integers(1, 8), st.randoms())
def test_every_size_comes_back(piece: bytes, data: int, parity: int, rng: random.Random) -> None:
    manifest, shards = made(piece, data, parity)
    assert max(len(one.data) for one in shards) <= manifest.most_shard_bytes
    assert join([one.data for one in rng.sample(shards, data)], len(piece), data, parity) == piece


@pytest.mark.parametrize(("data", "parity"), [(0, 4), (16, 0), (30, 3)])
def test_numbers_of_shards_are_checked(data: int, parity: int) -> None:
    with pytest.raises(ValueError, match="shards"):
        cut(b"abc", data, parity)


def test_too_much_and_nothing_are_not_cut() -> None:
    for piece in (b"", bytes(MOST_BYTES + 1)):
        with pytest.raises(ValueError, match="are cut at once"):
            cut(piece)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=32), st.data())
def test_a_proof_is_of_one_shard_at_one_place(leaves: list[bytes], data: st.DataObject) -> None:
    root, shards = proven(leaves)
    count = len(leaves)
    one = data.draw(st.sampled_from(shards))
    assert is_proven(root, count, one.index, one.data, one.proof)
    # one byte more, another place, another number of leaves, a hash more or less, a hash that is changed
    assert not is_proven(root, count, one.index, one.data + b"\0", one.proof)
    other = data.draw(st.integers(-2, count + 2))
    if other != one.index:
        fits = 0 <= other < count and is_proven(root, count, other, one.data, one.proof)
        assert not fits or leaves[other] == one.data
    assert not is_proven(root, count, one.index, one.data, (*one.proof, root))
    if one.proof:
        assert not is_proven(root, count, one.index, one.data, one.proof[:-1])
        changed = bytes((one.proof[0][0] ^ 1,)) + one.proof[0][1:]
        assert not is_proven(root, count, one.index, one.data, (changed, *one.proof[1:]))
        assert not is_proven(root, count, one.index, one.data, (one.proof[0][:-1], *one.proof[1:]))


def test_known_roots() -> None:
    """The tree hash of RFC 9162 over the leaves "", "\\0", "\\x10", " !", "01", "@ABC", "PQRSTUVW", "`a…o".

    Source: the test vectors of certificate-transparency's reference implementation (merkle tree of 1, 2, 3, 8 leaves).
    """
    leaves = [b"", b"\0", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for count, root in roots.items():
        assert proven(leaves[:count])[0].hex() == root


async def test_the_store_names_the_newest_pieces() -> None:
    store = MemoryStore("z")
    manifests = [Manifest(bytes([number]) * 32, 10, 16, 4, number) for number in range(RING + 5)]
    for one in manifests:
        await save_manifest(store, one)
    files = [Manifest(bytes([number]) * 32, 1, 16, 4, number, "file", 0, 1, "ab" * 32) for number in range(3)]
    for one in files:
        await save_manifest(store, one)
    assert {one.root for one in await load_manifests(store)} == {one.root for one in manifests[5:] + files}
    assert [one for one in await load_manifests(store) if not one.file] == manifests[5:]


@pytest.mark.parametrize(
    "change",
    [
        b"", b"{}", b"[]", b"null", b'{"root": 1}',
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_refused(change: bytes) -> None:
    with pytest.raises(BadShards, match="the row of a dispersed piece"):
        decode_manifest(change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0), ("size", MOST_BYTES + 1), ("size", 1.5), ("data", 0), ("parity", 99), ("number", -1),
        ("file", "../x"), ("file", ".x"), ("file", "a\0"), ("file", 7), ("root", "00"), ("more", 1), ("total", 1),
        ("digest", "../../x"),
    ],
)  # fmt: skip
def test_a_row_with_a_wrong_field_is_refused(field: str, value: object) -> None:
    import orjson

    good = Manifest(bytes(32), 10, 16, 4, 1, "file", 5, 20, "ab" * 32)
    assert decode_manifest(good.encode()) == good
    told = orjson.loads(good.encode())
    told[field] = value
    with pytest.raises(BadShards):
        decode_manifest(orjson.dumps(told))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "x" * 129])
def test_names_that_lead_elsewhere_are_not_sent(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a file"):
        check_name(name)


def test_objects_are_packed_and_checked() -> None:
    objects = [(cid_of(bytes([0x81, number])), bytes([0x81, number])) for number in range(20)]
    piece = pack(objects)
    assert list(unpack(piece)) == [(cid.multihash, data) for cid, data in objects]
    with pytest.raises(BadCar):
        list(unpack(piece[:-1] + b"\xff"))
    with pytest.raises(BadCar):
        list(unpack(piece[:-1]))


def test_an_inbox_puts_a_piece_together_once(tmp_path: Path) -> None:
    piece = random.Random(2).randbytes(5000)
    manifest, shards = made(piece)
    inbox = Inbox(tmp_path / "in", 1 << 20)
    flipped = shards[0].data[:-1] + bytes([shards[0].data[-1] ^ 1])
    assert inbox.add(manifest, Shard(0, flipped, shards[0].proof)) is Outcome.REFUSED
    assert inbox.add(manifest, Shard(1, shards[0].data, shards[0].proof)) is Outcome.REFUSED
    assert inbox.held(manifest) == set()
    for one in shards[4:19]:
        assert inbox.add(manifest, one) is Outcome.NEW
        assert inbox.take(manifest) is None
    assert inbox.add(manifest, shards[4]) is Outcome.KNOWN
    assert inbox.add(manifest, shards[0]) is Outcome.NEW
    assert inbox.take(manifest) == piece
    # one of this process has it in hand
    assert inbox.take(manifest) is None
    # what could not be used is put together again
    inbox.finish(manifest, used=False)
    assert inbox.take(manifest) == piece
    inbox.finish(manifest, used=True)
    assert inbox.is_done(manifest)
    assert inbox.take(manifest) is None
    assert inbox.add(manifest, shards[1]) is Outcome.ENOUGH
    assert inbox.held(manifest) == set()
    inbox.close()


def test_an_inbox_keeps_within_its_size(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "in", 40_000)
    for number in range(30):
        manifest, shards = made(random.Random(number).randbytes(10_000), number=number)
        for one in shards[:8]:
            assert inbox.add(manifest, one) is Outcome.NEW
        used = sum(file.stat().st_size for file in (tmp_path / "in").rglob("*") if file.is_file())
        assert used <= 40_000
        # the newest is whole
        assert inbox.held(manifest) == set(range(8))
    inbox.close()


def test_of_two_processes_one_puts_it_together(tmp_path: Path) -> None:
    manifest, shards = made(b"piece" * 100)
    inbox = Inbox(tmp_path / "in", 1 << 20)
    for one in shards[:16]:
        inbox.add(manifest, one)
    assert inbox.take(manifest) is not None
    script = (
        "import sys; from pathlib import Path; from blockstore.shards.inbox import Inbox\n"
        "from blockstore.shards.manifest import decode_manifest\n"
        "print(Inbox(Path(sys.argv[1]), 1 << 20).take(decode_manifest(sys.argv[2].encode())) is None)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "in"), manifest.encode().decode()]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "True\n"
    # the first one died
    inbox.close()
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"
