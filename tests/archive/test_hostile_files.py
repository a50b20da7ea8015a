"""Damaged and hostile files: an object comes back as it is, or an error says what is wrong; never other bytes."""

from __future__ import annotations

import asyncio
import random
import resource
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from blockstore.archive.carv2_layout import INDEX_SORTED, MULTIHASH_INDEX_SORTED
from blockstore.archive.forest_index import FOOTER_SIZE, HEADER_SIZE, footer, hash_base, slot_hash
from blockstore.archive.tier import Archives
from blockstore.car.writer import CarWriter
from blockstore.cid import RAW, Cid, cid_of, uvarint
from blockstore.errors import BadCar, StoreError
from tests.archive.files import forest_index, skippable, write_carv2, write_forest

OBJECTS = [(cid_of(data, RAW), data) for data in (bytes([at % 251]) * (17 + 53 * at) for at in range(120))]
BY_HASH = {cid.multihash: data for cid, data in OBJECTS}
ROOTS = [OBJECTS[0][0]]
Write = Callable[[Path], Path]


def forest(path: Path) -> Path:
    return write_forest(path, ROOTS, OBJECTS, frame=2000, index_frame=1024)


def sorted_index(path: Path) -> Path:
    return write_carv2(path, ROOTS, OBJECTS, codec=INDEX_SORTED)


def multihash_index(path: Path) -> Path:
    return write_carv2(path, ROOTS, OBJECTS, codec=MULTIHASH_INDEX_SORTED)


FORMS: list[Write] = [forest, sorted_index, multihash_index]


async def read_all(path: Path) -> dict[bytes, object]:
    """What each object's reading gives. Errors: BadCar, where the file is not opened at all."""
    archives = await Archives.open([str(path)])
    try:
        keys = list(BY_HASH)
        return dict(zip(keys, await archives.outcomes(keys), strict=True))
    finally:
        await archives.close()


def assert_no_other_bytes(found: dict[bytes, object]) -> None:
    for multihash, outcome in found.items():
        assert outcome is None or isinstance(outcome, StoreError) or outcome == BY_HASH[multihash]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("write", FORMS)
async def test_every_object_is_found_and_no_other(write: Write, folder: Path) -> None:
    path = write(folder / "file")
    assert await read_all(path) == BY_HASH
    archives = await Archives.open([str(path)])
    absent = [cid_of(b"absent %d" % at).multihash for at in range(200)]
    assert await archives.outcomes([*absent, b"", b"\xff", b"\x12\x20short"]) == [None] * 203
    await archives.close()


@pytest.mark.parametrize("write", FORMS)
async def test_a_truncated_file_is_no_archive(write: Write, folder: Path) -> None:
    whole = write(folder / "file").read_bytes()
    cut = folder / "cut"
    for size in [0, 1, 20, 51, *range(100, len(whole), len(whole) // 20), len(whole) - 17, len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(BadCar):
            await read_all(cut)


@pytest.mark.parametrize("write", FORMS)
def test_damage_gives_no_other_bytes(write: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = write(folder / "file").read_bytes()

    @examples(max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def damage(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for at, value in changes:
            data[at] = value
        (folder / "damaged").write_bytes(data)
        try:
            found = asyncio.run(read_all(folder / "damaged"))
        except StoreError:
            return
        assert_no_other_bytes(found)

    damage()


async def test_a_corrupt_frame_costs_its_objects_alone(folder: Path) -> None:
    path = forest(folder / "file")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x28\xb5\x2f\xfd", len(data) // 4)
    data[at + 20 : at + 60] = bytes(40)
    path.write_bytes(data)
    found = await read_all(path)
    assert_no_other_bytes(found)
    wrong = [outcome for outcome in found.values() if not isinstance(outcome, bytes)]
    assert 0 < len(wrong) < 20
    assert all(isinstance(outcome, StoreError) for outcome in wrong)


@pytest.mark.parametrize("write", FORMS)
async def test_bytes_that_do_not_hash_are_refused(write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "OBJECTS", [*OBJECTS[:5], (OBJECTS[5][0], b"other bytes"), *OBJECTS[6:]])
    found = await read_all(write(folder / "file"))
    wrong = found.pop(OBJECTS[5][0].multihash)
    assert isinstance(wrong, BadCar)
    assert f"{folder / 'file'}: 11 bytes do not hash to" in str(wrong)
    assert all(isinstance(outcome, bytes) for outcome in found.values())


class Hostile:
    """A `.forest.car.zst` file of a header and `frames`, with an index of one's own."""

    def __init__(self, path: Path, *frames: bytes) -> None:
        self.path = path
        self.data = b""
        self.places: list[int] = []
        header = path.with_suffix(".header")
        with header.open("wb") as out:
            CarWriter(out, ROOTS)
        for frame in (zstandard.compress(header.read_bytes()), *frames):
            self.places.append(len(self.data))
            self.data += frame

    def write(self, index: bytes, *, offset: int | None = None) -> Path:
        at = len(self.data) + 8 if offset is None else offset
        self.path.write_bytes(self.data + skippable(index) + footer(at))
        return self.path


CID, DATA = OBJECTS[7]
HASH = slot_hash(hash_base(CID.multihash), RAW)
FRAME = zstandard.compress(uvarint(len(CID) + len(DATA)) + CID + DATA)


async def outcome_of(path: Path, cid: Cid = CID) -> object:
    archives = await Archives.open([str(path)])
    try:
        return (await archives.outcomes([cid.multihash]))[0]
    finally:
        await archives.close()


async def test_the_file_made_here_is_sound(folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    assert await outcome_of(made.write(forest_index([(HASH, made.places[1])]))) == DATA


@pytest.mark.parametrize("offset", [1 << 63, (1 << 63) - 1, (1 << 64) - 1, 10**6, -1, 1, 3])
async def test_slots_that_point_outside(offset: int, folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    at = len(made.data) - 1 if offset < 0 else offset
    assert isinstance(await outcome_of(made.write(forest_index([(HASH, at)]))), BadCar)


async def test_a_slot_that_points_to_the_header(folder: Path) -> None:
    found = await outcome_of(Hostile(folder / "file", FRAME).write(forest_index([(HASH, 0)])))
    assert isinstance(found, BadCar)


@pytest.mark.parametrize("header", [
    (0xDEADBEEF, 0, 0, 1),
    (0xDEADBEF0, 0, 0, 1 << 63),
    (0xDEADBEF0, 0, 0, 1000),
])  # fmt: skip
async def test_headers_of_an_index(header: tuple[int, ...], folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    index = forest_index([(HASH, made.places[1])])
    with pytest.raises(BadCar):
        await outcome_of(made.write(struct.pack("<4Q", *header) + index[HEADER_SIZE:]))


async def test_a_distance_without_end_is_bounded_by_the_table(folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    index = forest_index([(HASH, made.places[1])])
    found = await outcome_of(made.write(struct.pack("<4Q", 0xDEADBEF0, (1 << 64) - 1, 0, 1) + index[HEADER_SIZE:]))
    assert found == DATA


async def test_a_table_of_one_hash(folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    slots = struct.pack("<2Q", HASH, made.places[1]) * 100_000
    found = await outcome_of(made.write(struct.pack("<4Q", 0xDEADBEF0, 1 << 40, 0, 100_000) + slots))
    assert isinstance(found, BadCar)


async def test_a_table_that_is_full_of_smaller_hashes(folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    slots = struct.pack("<2Q", 5, made.places[1]) * 200_000
    found = await outcome_of(made.write(struct.pack("<4Q", 0xDEADBEF0, 1 << 40, 0, 2) + slots))
    assert isinstance(found, BadCar)


@pytest.mark.parametrize("offset", [0, 7, 8, 1 << 62, (1 << 64) - 1])
async def test_footers_that_point_nowhere(offset: int, folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    with pytest.raises(BadCar):
        await outcome_of(made.write(forest_index([(HASH, made.places[1])]), offset=offset))


async def test_an_index_of_empty_frames(folder: Path) -> None:
    made = Hostile(folder / "file", FRAME)
    made.path.write_bytes(made.data + skippable(b"") * 100_000 + footer(len(made.data) + 8))
    with pytest.raises(BadCar):
        await outcome_of(made.path)


async def test_a_frame_bomb_is_not_unpacked(folder: Path) -> None:
    """Blocks of 128 KiB in 4 bytes each: a GiB in 32 KiB."""
    block = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\x01"
    last = (1 | 1 << 1 | 1 << 3).to_bytes(3, "little") + b"\x01"
    bomb = b"\x28\xb5\x2f\xfd\x00\x58" + block * 8192 + last
    made = Hostile(folder / "file", bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(await outcome_of(made.write(forest_index([(HASH, made.places[1])]))), BadCar)
    # KiB: far less than what the frame says
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@pytest.mark.parametrize("descriptor", [
    b"\xe0" + ((1 << 62).to_bytes(8, "little")),
    b"\x00\xf8",
])  # fmt: skip
async def test_frames_that_ask_for_memory(descriptor: bytes, folder: Path) -> None:
    """One says that it holds 4 EiB, the other one wants a window of terabytes."""
    frame = b"\x28\xb5\x2f\xfd" + descriptor + (1 | 4 << 3).to_bytes(3, "little") + b"abcd"
    # what is read ahead of the header ends in a sound frame
    filler = random.Random(1).randbytes(300_000)
    cid = cid_of(filler, RAW)
    made = Hostile(folder / "file", zstandard.compress(uvarint(len(cid) + len(filler)) + cid + filler), frame)
    assert isinstance(await outcome_of(made.write(forest_index([(HASH, made.places[2])]))), BadCar)


async def test_a_frame_without_end(folder: Path) -> None:
    block = (4 << 3).to_bytes(3, "little") + b"abcd"
    made = Hostile(folder / "file", b"\x28\xb5\x2f\xfd\x00\x58" + block * 100_000)
    assert isinstance(await outcome_of(made.write(forest_index([(HASH, made.places[1])]))), BadCar)


async def test_the_first_objects_of_a_long_frame_are_read(folder: Path) -> None:
    """A snapshot's metadata shares its frame with the certificates of F3, which are larger than any object."""
    section = uvarint(len(CID) + len(DATA)) + CID + DATA
    long = cid_of(b"long", RAW)
    frame = zstandard.compress(section + uvarint(len(long) + (40 << 20)) + long + bytes(40 << 20))
    made = Hostile(folder / "file", frame)
    hashed = slot_hash(hash_base(long.multihash), RAW)
    path = made.write(forest_index([(HASH, made.places[1]), (hashed, made.places[1])]))
    assert await outcome_of(path) == DATA
    assert isinstance(await outcome_of(path, long), BadCar)


async def test_lengths_of_sections(folder: Path) -> None:
    for body in (b"\xff" * 12, b"\x00" * 3, uvarint(1 << 60) + CID, uvarint(3) + CID):
        made = Hostile(folder / "file", zstandard.compress(body))
        assert isinstance(await outcome_of(made.write(forest_index([(HASH, made.places[1])]))), BadCar)


def carv2(folder: Path, index: bytes) -> Path:
    path = multihash_index(folder / "file")
    data = path.read_bytes()
    at = int.from_bytes(data[43:51], "little")
    path.write_bytes(data[:at] + index)
    return path


def table(code: int, width: int, rows: bytes, length: int | None = None) -> bytes:
    size = len(rows) if length is None else length
    head = uvarint(MULTIHASH_INDEX_SORTED) + struct.pack("<I", 1) + struct.pack("<Q", code) + struct.pack("<I", 1)
    return head + struct.pack("<IQ", width, size) + rows


DIGEST = CID.multihash[4:]


@pytest.mark.parametrize("index", [
    b"",
    uvarint(0x0402) + bytes(40),
    uvarint(MULTIHASH_INDEX_SORTED) + b"\xff\xff\xff\xff",
    table(0xB220, 40, DIGEST + bytes(8), 1 << 62),
    table(0xB220, 8, DIGEST + bytes(8)),
    table(0xB220, 1 << 31, DIGEST + bytes(8)),
    table(0xB220, 40, DIGEST + bytes(8), 39),
])  # fmt: skip
async def test_carv2_indices_that_make_no_sense(index: bytes, folder: Path) -> None:
    with pytest.raises(BadCar):
        await outcome_of(carv2(folder, index))


@pytest.mark.parametrize("at", [(1 << 64) - 1, 1 << 63, 1 << 40, 7])
async def test_carv2_headers_that_point_outside(at: int, folder: Path) -> None:
    path = multihash_index(folder / "file")
    data = path.read_bytes()
    path.write_bytes(data[:43] + at.to_bytes(8, "little") + data[51:])
    with pytest.raises(BadCar):
        await outcome_of(path)


@pytest.mark.parametrize("offset", [1 << 40, (1 << 64) - 1, 3])
async def test_carv2_rows_that_point_outside(offset: int, folder: Path) -> None:
    row = DIGEST + struct.pack("<Q", offset)
    assert isinstance(await outcome_of(carv2(folder, table(0xB220, 40, row))), BadCar)


async def test_carv2_rows_in_no_order(folder: Path) -> None:
    rows = b"".join(bytes([at * 89 % 256]) * 32 + bytes(8) for at in range(5000))
    found = await outcome_of(carv2(folder, table(0xB220, 40, rows)))
    assert found is None or isinstance(found, BadCar)


async def test_files_without_an_index_say_so(folder: Path) -> None:
    plain = folder / "plain.car"
    with plain.open("wb") as out:
        CarWriter(out, ROOTS)
    compressed = folder / "plain.car.zst"
    compressed.write_bytes(zstandard.compress(plain.read_bytes()))
    forest_file = forest(folder / "file").read_bytes()
    (folder / "cut").write_bytes(forest_file[:-FOOTER_SIZE])
    for path in (plain, compressed, folder / "cut"):
        with pytest.raises(BadCar, match="served in place"):
            await outcome_of(path)
    with pytest.raises(StoreError, match="No such file"):
        await outcome_of(folder / "none")
    with pytest.raises(StoreError):
        await outcome_of(folder)


async def test_a_file_that_is_written_to_is_noticed(folder: Path) -> None:
    path = forest(folder / "file")
    archives = await Archives.open([str(path)])
    keys = list(BY_HASH)
    assert isinstance((await archives.outcomes(keys[:1]))[0], bytes)
    with path.open("ab") as out:
        out.write(b"more")
    assert isinstance((await archives.outcomes(keys[-1:]))[0], StoreError)
    forest(path)
    # opened anew: the file is an archive again
    assert isinstance((await archives.outcomes(keys[-1:]))[0], bytes | StoreError)
    await archives.close()


@pytest.fixture
async def open_forest(folder: Path) -> AsyncIterator[Archives]:
    archives = await Archives.open([str(forest(folder / "file"))])
    yield archives
    await archives.close()


async def test_a_frame_is_decompressed_once_for_all_that_wait(open_forest: Archives) -> None:
    key = [list(BY_HASH)[50]]
    found = await asyncio.gather(*(open_forest.outcomes(key) for _ in range(50)))
    assert found == [[BY_HASH[key[0]]]] * 50
    assert sum(open_forest.figures("decoded").values()) == 1


async def test_a_reader_that_gives_up_does_not_stop_the_others(open_forest: Archives) -> None:
    key = [list(BY_HASH)[50]]
    first = asyncio.ensure_future(open_forest.outcomes(key))
    second = asyncio.ensure_future(open_forest.outcomes(key))
    while not sum(open_forest.figures("fetches").values()):
        await asyncio.sleep(0)
    first.cancel()
    assert await second == [BY_HASH[key[0]]]
