"""Forest's form of snapshot file: the index is what Forest itself writes, and finds all that is in the file."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from blockstore.car.forest_index import IndexEntries, cid_hash
from blockstore.car.reader import CarFile, iter_car
from blockstore.car.snapshot_forms import Form, open_writer
from blockstore.cid import RAW, Cid, cid_of, parse
from tests.exports.forest_lookup import ForestLookup
from tests.support.recorded import recorded

#: from the tests of Forest's `index/hash.rs`: what it folds CIDs of texts into
FOREST_HASHES = {
    "forest": 7060553106844083342,
    "lotus": 10998694778601859716,
    "libp2p": 15878333306608412239,
    "ChainSafe": 17464860692676963753,
    "haskell": 10392497608425502268,
}


@pytest.mark.parametrize("text", FOREST_HASHES)
def test_hash_is_forests(text: str) -> None:
    assert cid_hash(cid_of(bytes((0x60 | len(text),)) + text.encode())) == FOREST_HASHES[text]


def test_hash_of_unusual_cids_is_forests() -> None:
    # of the same tests: identity CIDs of a codec, with digests of 0, 4 and 8 bytes
    assert cid_hash(b"\x01\xab\x01\x00\x00") == 170
    assert cid_hash(b"\x01\xac\x01\x00\x04\x01\x02\x03\x04") == 171
    assert cid_hash(b"\x01\xad\x01\x00\x08\x01\x02\x03\x04\x05\x06\x07\x08") == 578437695752307371
    # sha2-256, as the genesis names its parent
    assert cid_hash(parse("bafyreiaqpwbbyjo4a42saasj36kkrpv4tsherf2e7bvezkert2a7dhonoi")) > 0


@pytest.mark.recorded
@pytest.mark.parametrize("in_memory", [1 << 20, 100])
def test_index_of_forests_own_file_is_made_again_byte_by_byte(in_memory: int) -> None:
    theirs = ForestLookup(recorded("cars/chain4.forest.car.zst"))
    out = io.BytesIO()
    with IndexEntries(run_entries=in_memory) as entries:
        for offset in theirs.data_frames():
            entries.add([cid for cid, _ in theirs.sections(offset)], offset)
        length = entries.write(out)
    assert out.getvalue() == theirs.index_bytes
    assert length == len(theirs.index_bytes)


def written(path: Path, objects: list[tuple[Cid, bytes]], version: int = 1) -> ForestLookup:
    with path.open("wb") as file:
        writer = open_writer(file, Form.FOREST, [objects[0][0]], version=version)
        for at in range(0, len(objects), 100):
            writer.write(objects[at : at + 100])
        writer.finish()
        writer.close()
    return ForestLookup(path)


@pytest.mark.recorded
@pytest.mark.parametrize("version", [1, 2])
def test_every_object_of_a_written_file_is_found_as_forest_looks(tmp_path: Path, version: int) -> None:
    objects = list(iter_car(recorded("cars/chain4.car")))
    rng = random.Random(1)
    # one larger than a frame, one empty, one twice
    objects += [(cid_of(data, RAW), data) for data in (rng.randbytes(100_000), b"", b"twice", b"twice")]
    file = written(tmp_path / "a.forest.car.zst", objects, version)
    for cid, data in objects:
        assert file.get(cid) == data
    assert file.get(cid_of(b"another")) is None
    with CarFile(tmp_path / "a.forest.car.zst") as reader:
        assert reader.head == (objects[0][0],)
        assert list(reader)[version - 1 :] == objects
    sizes = [len(file.frame(offset)[0]) for offset in file.data_frames()]
    assert 16 << 10 < sorted(sizes)[len(sizes) // 2] < 32 << 10, "as much in a frame as in Forest's own files"


def test_hashes_that_are_equal_are_all_in_the_index(tmp_path: Path) -> None:
    # the last 16 bytes of a digest swapped by eights: the same hash
    def twin(cid: Cid) -> Cid:
        return Cid(cid[:22] + cid[30:] + cid[22:30])

    cids = [cid_of(bytes((number,))) for number in range(50)]
    out = io.BytesIO()
    with IndexEntries() as entries:
        for number, cid in enumerate(cids):
            entries.add([cid], 1000 + number)
            entries.add([twin(cid)], 5000 + number)
        entries.write(out)
    file = tmp_path / "index"
    file.write_bytes(out.getvalue() + b"\x50\x2a\x4d\x18\x08\0\0\0" + (8).to_bytes(8, "little"))
    index = ForestLookup(file)
    assert index.collisions == 50
    for number, cid in enumerate(cids):
        assert index.offsets(cid) == index.offsets(twin(cid)) == [1000 + number, 5000 + number]


@pytest.mark.parametrize("count", [0, 1, 2, 500, 3000])
def test_a_long_index_is_cut_into_frames(tmp_path: Path, count: int) -> None:
    """As Forest's own, where one frame's length would not fit into four bytes."""
    cids = [cid_of(number.to_bytes(4, "big")) for number in range(count)]
    tables = []
    for one_frame, frame, run_entries in ((1 << 32, 1 << 29, 1 << 20), (0, 128, 200)):
        out = io.BytesIO()
        with IndexEntries(tmp_path, run_entries=run_entries) as entries:
            for number, cid in enumerate(cids):
                entries.add([cid], number)
            assert entries.write(out, one_frame=one_frame, frame=frame) == len(out.getvalue())
        path = tmp_path / "index"
        path.write_bytes(out.getvalue() + b"\x50\x2a\x4d\x18\x08\0\0\0" + (8).to_bytes(8, "little"))
        tables.append(ForestLookup(path))
    whole, cut = tables
    assert whole.frames == 1
    assert cut.frames == -(-len(whole.table) // 128)
    assert cut.table == whole.table
    for number, cid in enumerate(cids):
        assert whole.offsets(cid) == [number]
