"""CAR files: every form, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.car.batches import Chunk, Ended, FeedProcess, Opened, Resume, feed, is_leaf
from blockstore.car.reader import CarFile, CarReader, iter_car
from blockstore.car.writer import CarWriter, snapshot_writer
from blockstore.cid import RAW, Cid, cid_of, uvarint
from blockstore.errors import BadCar
from chain.ipld.dag_cbor import encode
from tests.support.recorded import recorded

Objects = list[tuple[Cid, bytes]]
SKIPPABLE = b"\x5e\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"


def objects_of(datas: list[bytes]) -> Objects:
    return [(cid_of(data, RAW if at % 3 == 2 else 0x71), data) for at, data in enumerate(datas)]


def car_of(objects: Objects, roots: list[Cid] | None = None) -> bytes:
    out = io.BytesIO()
    writer = CarWriter(out, [objects[0][0]] if roots is None else roots)
    for cid, data in objects:
        writer.write(cid, data)
    assert writer.offset == len(out.getvalue())
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def frames(data: bytes) -> bytes:
    """As Forest writes: small frames, and skippable ones before, between and behind."""
    parts = [zstd(data[at : at + 700]) for at in range(0, len(data), 700)]
    return SKIPPABLE + SKIPPABLE.join(parts) + SKIPPABLE


def version_2(data: bytes, padding: int = 7, index: bytes = b"\x81\x08an index") -> bytes:
    at = 51 + padding
    header = bytes(16) + b"".join(n.to_bytes(8, "little") for n in (at, len(data), at + len(data)))
    return bytes.fromhex("0aa16776657273696f6e02") + header + bytes(padding) + data + index


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "zstd": zstd,
    "frames": frames,
    "version 2": version_2,
    "version 2 zstd": lambda data: zstd(version_2(data)),
}
SAMPLE = objects_of([bytes((n % 251,)) * (n * 37 % 900) + n.to_bytes(4, "big") for n in range(60)])


class Pipe(io.RawIOBase):
    """Not seekable, and gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._inner = io.BytesIO(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, self._step) if size >= 0 else self._step)


def read(data: bytes, **options: int) -> Objects:
    return list(CarReader(io.BytesIO(data), **options))


@pytest.mark.parametrize("form", FORMS)
@given(datas=st.lists(st.binary(max_size=3000), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_what_was_written_is_read(form: str, datas: list[bytes]) -> None:
    objects = objects_of(datas)
    roots = [cid for cid, _ in objects[:3]]
    reader = CarReader(io.BytesIO(FORMS[form](car_of(objects, roots))))
    assert reader.roots == tuple(roots) == reader.head
    assert list(reader) == objects


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [1, 13, 4096])
def test_a_pipe_is_as_good_as_a_file(form: str, step: int) -> None:
    data = FORMS[form](car_of(SAMPLE))
    assert list(CarReader(Pipe(data, step))) == SAMPLE  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_reading_goes_on_at_any_earlier_offset(form: str) -> None:
    data = FORMS[form](car_of(SAMPLE))
    (run, *_) = [len(one) for one in CarReader(io.BytesIO(data)).runs()]
    assert run > 0
    at = len(car_of(SAMPLE[:25], [SAMPLE[0][0]])) + (58 if "version 2" in form else 0)
    reader = CarReader(io.BytesIO(data))
    reader.seek(at)
    assert reader.offset == at
    assert list(reader) == SAMPLE[25:]
    with pytest.raises(BadCar):
        CarReader(io.BytesIO(data)).seek(1)
    with pytest.raises(BadCar):
        CarReader(io.BytesIO(data)).seek(len(data) * 100)


@pytest.mark.parametrize("form", FORMS)
def test_cut_anywhere(form: str) -> None:
    whole = car_of(SAMPLE)
    ends = {len(car_of(SAMPLE[:n], [SAMPLE[0][0]])) for n in range(len(SAMPLE) + 1)}
    data = FORMS[form](whole)
    step = max(1, len(data) // 700)
    for cut in range(0, len(data) - (len(SKIPPABLE) if form == "frames" else 0), step):
        got: Objects = []
        try:
            for item in CarReader(io.BytesIO(data[:cut])):
                got.append(item)
        except BadCar as error:
            assert 0 <= error.offset <= len(whole) + 100
            assert str(error).endswith(f"at byte offset {error.offset}")
        else:
            # a plain file that ends between sections, or one that lacks only its index or padding
            assert (form == "plain" and cut in ends) or got == SAMPLE or form == "frames", cut
        assert got == SAMPLE[: len(got)], "only good objects come before the error"


def test_a_cut_frame_is_noticed_at_its_last_byte() -> None:
    data = frames(car_of(SAMPLE))
    for cut in set(range(1, 30)) - {len(SKIPPABLE)}:
        with pytest.raises(BadCar, match="ends within"):
            read(data[:-cut])
    assert read(data[: -len(SKIPPABLE)]) == SAMPLE, "Forest's index is not needed"


@pytest.mark.parametrize("form", FORMS)
def test_flipped_bits(form: str) -> None:
    whole = car_of(SAMPLE)
    data = FORMS[form](whole)
    header = len(car_of([], [SAMPLE[0][0]]))
    wrong = 0
    for at in range(0, len(data), max(1, len(data) // 400)):
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            got: Objects = []
            try:
                got = list(CarReader(io.BytesIO(bytes(flipped))))
            except BadCar as error:
                wrong += 1
                assert error.offset >= 0
            else:
                # no hash protects roots, codecs, version 2's padding and index
                assert [(cid.multihash, data) for cid, data in got] == [
                    (cid.multihash, data) for cid, data in SAMPLE
                ], (at, bit)
    assert wrong > 900 if form != "frames" else wrong > 600
    assert header < len(whole)


BROKEN: list[tuple[str, bytes, str, int]] = [
    ("empty", b"", "empty", 0),
    ("one byte", b"\x3a", "ends within the header", 1),
    ("garbage", b"GIF89a" * 40, "malformed|neither", 0),
    ("huge header", uvarint(1 << 40) + b"x", "no CAR file", 0),
    ("endless varint", b"\xff" * 40, "longer than 9 bytes", 0),
    ("no header", b"\x00", "no CAR file", 0),
    ("a list", b"\x01\x80", "version", 0),
    ("version 3", b"\x0a\xa1\x67version\x03", "version", 0),
    ("no roots", b"\x0a\xa1\x67version\x01", "no roots", 0),
    ("bad root", b"\x12\xa2\x65roots\x81\x01\x67version\x01", "malformed", 0),
    ("not zstd after all", b"\x28\xb5\x2f\xfd" + b"\xff" * 30, "corrupted|ends within", 0),
]


@pytest.mark.parametrize(("name", "data", "reason", "offset"), BROKEN, ids=[b[0] for b in BROKEN])
def test_what_is_no_car(name: str, data: bytes, reason: str, offset: int) -> None:
    with pytest.raises(BadCar, match=reason) as caught:
        read(data)
    assert caught.value.offset == offset


HEAD = car_of(SAMPLE[:2])
SECTIONS: list[tuple[str, bytes, str, int]] = [
    ("zero length", b"\x00", "length 0", 0),
    ("padding", bytes(100), "length 0", 0),
    ("too long", uvarint(9 << 20) + b"x", "at most", 0),
    ("absurd", uvarint((1 << 62) - 1) + b"x", "at most", 0),
    ("varint cut", b"\x80", "ends within a section's length", 1),
    ("varint padded", b"\xa6\x00" + SAMPLE[0][0] + bytes(0), "shortest", 0),
    ("varint endless", b"\x80" * 12, "longer than 9", 0),
    ("no cid", b"\x03abc", "without a CID", 0),
    ("cid cut", b"\x05" + SAMPLE[0][0][:5], "without a CID", 0),
    ("cid version 9", uvarint(40) + b"\x09" + bytes(39), "without a CID", 0),
    ("unknown hash", uvarint(8) + b"\x01\x71\x99\x01\x02abc", "without a CID", 0),
    ("other data", uvarint(39) + SAMPLE[5][0] + b"x", "does not have its hash", 0),
    ("other sha", uvarint(37) + b"\x01\x71\x12\x20" + bytes(32) + b"x", "does not have its hash", 0),
]


@pytest.mark.parametrize(("name", "data", "reason", "offset"), SECTIONS, ids=[b[0] for b in SECTIONS])
@pytest.mark.parametrize("form", ["plain", "zstd"])
def test_what_is_no_section(form: str, name: str, data: bytes, reason: str, offset: int) -> None:
    got: Objects = []
    reader = CarReader(io.BytesIO(FORMS[form](HEAD + data)))
    with pytest.raises(BadCar, match=reason) as caught:
        for item in reader:
            got.append(item)
    assert caught.value.offset == len(HEAD) + offset
    assert got == SAMPLE[:2]


def test_other_hashes_and_cids() -> None:
    data = b"some data"
    sha = hashlib.sha256(data).digest()
    objects = [
        (Cid(b"\x12\x20" + sha), data),
        (Cid(b"\x01\x71\x12\x20" + sha), data),
        (Cid(b"\x01\x55\x00\x03abc"), b"abc"),
        (cid_of(data, 0x0129), data),
    ]
    assert read(car_of(objects)) == objects


def test_section_limit_is_the_callers() -> None:
    objects = objects_of([bytes(5000)])
    assert read(car_of(objects), max_section=5100) == objects
    with pytest.raises(BadCar, match="at most"):
        read(car_of(objects), max_section=5000)
    large = objects_of([bytes(3 << 20)])
    assert read(car_of(large)) == large


def test_version_2_headers() -> None:
    data = version_2(car_of(SAMPLE))
    reader = CarReader(io.BytesIO(data))
    assert reader.version == 2
    assert list(reader) == SAMPLE
    for at, value, reason in ((27, 3, "says"), (35, 0, "says"), (35, len(data) * 2, "before its data does")):
        broken = data[:at] + value.to_bytes(8, "little") + data[at + 8 :]
        with pytest.raises(BadCar, match=f"{reason}|length 0|ends within"):
            read(broken)
    assert read(data[: -len(b"\x81\x08an index")]) == SAMPLE, "the index is not needed"


def test_snapshot_version_2() -> None:
    f3 = os.urandom(100_000)
    head = [cid for cid, _ in SAMPLE[:2]]
    for form in FORMS.values():
        out = io.BytesIO()
        writer = snapshot_writer(out, head, f3)
        for cid, data in SAMPLE:
            writer.write(cid, data)
        reader = CarReader(io.BytesIO(form(out.getvalue())), max_section=50_000)
        assert reader.snapshot is not None
        assert reader.snapshot.f3 == cid_of(f3, RAW)
        assert reader.head == tuple(head) != reader.roots
        (metadata, *rest) = list(reader)
        assert metadata[0] == reader.roots[0]
        assert rest == SAMPLE
        assert reader.f3_bytes == len(f3), "an F3 part longer than a section may be, verified as it passes"
        whole = out.getvalue()
        at = whole.index(f3) + 70_000
        with pytest.raises(BadCar, match="F3 part"):
            read(form(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]))
        with pytest.raises(BadCar, match="ends within"):
            read(whole[:at])


def test_snapshot_metadata_is_what_lotus_writes() -> None:
    out = io.BytesIO()
    snapshot_writer(out, [SAMPLE[0][0]], None)
    reader = CarReader(io.BytesIO(out.getvalue()))
    ((_, metadata),) = list(reader)
    assert metadata == encode({"Version": 2, "HeadTipsetKey": [SAMPLE[0][0]], "F3Data": None})
    assert reader.snapshot is not None
    assert reader.snapshot.f3 is None


def test_a_bomb_stays_small() -> None:
    # 64 MiB of zeros behind the header decompress from a few KiB: read in steps, and refused at once
    data = zstd(HEAD + bytes(64 << 20))
    assert len(data) < 20_000
    with pytest.raises(BadCar, match="length 0") as caught:
        read(data)
    assert caught.value.offset == len(HEAD)


def test_leaves() -> None:
    sealed = Cid(b"\x01\x82\xe2\x03\x81\xe8\x02\x20" + bytes(32))
    assert is_leaf(cid_of(b""), encode([1, b"bytes"]))
    assert is_leaf(cid_of(b"", RAW), encode([SAMPLE[0][0]]))
    assert is_leaf(cid_of(b""), encode([sealed, b"x"]))
    assert not is_leaf(cid_of(b""), encode([sealed, SAMPLE[0][0]]))
    assert not is_leaf(cid_of(b""), encode({"a": [SAMPLE[0][0]]}))


@pytest.mark.parametrize("process", [False, True])
def test_feed_gives_everything_once(tmp_path: Path, process: bool) -> None:
    path = tmp_path / "a.car.zst"
    path.write_bytes(zstd(car_of(SAMPLE)))
    child = FeedProcess(path) if process else None
    items = list(child if child is not None else feed(path, batch_bytes=2000))
    opened, ended = items[0], items[-1]
    assert isinstance(opened, Opened)
    assert isinstance(ended, Ended)
    assert opened.head == (SAMPLE[0][0],)
    assert ended.offset == len(car_of(SAMPLE))
    chunks = [item for item in items if isinstance(item, Chunk)]
    got = [pair for chunk in chunks for part in (chunk.leaves, *chunk.levels, chunk.others) for pair in part]
    assert sorted(got) == sorted((cid.multihash, data) for cid, data in SAMPLE)
    if child is not None:
        child.stop()
    resume = Resume(opened.fingerprint, len(car_of(SAMPLE[:10])))
    rest = [one for one in feed(path, resume) if isinstance(one, Chunk)]
    assert sum(chunk.count for chunk in rest) == len(SAMPLE) - 10
    again = list(feed(path, Resume("of another file", 999)))
    assert isinstance(again[0], Opened)
    assert again[0].start == 0


def test_feed_process_passes_errors_on(tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    path.write_bytes(car_of(SAMPLE)[:-5])
    child = FeedProcess(path)
    got = 0
    with pytest.raises(BadCar, match="ends within") as caught:
        for item in child:
            got += item.count if isinstance(item, Chunk) else 0
    assert got == len(SAMPLE) - 1, "what came before the fault is kept"
    assert caught.value.offset == len(car_of(SAMPLE)) - 5
    child.stop()
    missing = FeedProcess(tmp_path / "none.car")
    with pytest.raises(FileNotFoundError):
        list(missing)
    missing.stop()


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(frames(car_of(SAMPLE))))
    writer.start()
    assert list(iter_car(path)) == SAMPLE
    writer.join()


REAL = {
    "cars/carv2.car.zst": (2, 7153),
    "cars/chain4.car": (1, 1222),
    "cars/chain4.car.zst": (1, 1222),
    "cars/chain4.forest.car.zst": (1, 1222),
    "cars/export40.car": (1, 1581),
    "genesis/mainnet.car.zst": (1, 1222),
    "genesis/calibnet.car.zst": (1, 1207),
}


@pytest.mark.recorded
@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    version, count = REAL[name]
    path = recorded(name)
    with CarFile(path) as reader:
        assert reader.version == version
        objects = list(reader)
    assert len(objects) == count
    for cid, data in objects:
        assert cid.multihash == cid_of(data).multihash or cid.codec != 0x71 or cid[2] == 0x12
    held = {cid for cid, _ in objects}
    assert reader.roots[0] in held


@pytest.mark.recorded
def test_one_chain_in_three_forms() -> None:
    plain, packed, forest = (
        dict(iter_car(recorded(f"cars/chain4.{form}"))) for form in ("car", "car.zst", "forest.car.zst")
    )
    assert plain == packed == forest


@pytest.mark.recorded
@pytest.mark.parametrize("name", ["cars/chain4.car.zst", "cars/chain4.forest.car.zst", "cars/carv2.car.zst"])
def test_real_files_cut_and_flipped(name: str) -> None:
    data = recorded(name).read_bytes()
    whole = read(data)
    last = len(data) if "forest" not in name else data.rindex(b"\x2a\x4d\x18") - 40_000
    for part in range(1, 12):
        cut = last * part // 12 + part
        got: Objects = []
        try:
            for item in CarReader(io.BytesIO(data[:cut])):
                got.append(item)
        except BadCar as error:
            assert error.offset >= 0
        else:
            assert "v2" in name, "only an index behind the data may be lacking"
            assert got == whole
        assert got == whole[: len(got)]
        flipped = bytearray(data)
        flipped[cut] ^= 0x10
        try:
            assert read(bytes(flipped)) == whole  # within Forest's index, or version 2's
        except BadCar as error:
            assert error.offset >= 0
