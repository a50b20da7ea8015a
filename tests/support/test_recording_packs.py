"""Recordings go into a pack and come out as they were, also where several processes ask at once."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.support import recording_packs
from tests.support.recorded import unpacked
from tests.support.recording_packs import PACKS, BadPack, pack, unpack

SHARED = random.Random(1).randbytes(300_000)
CHAIN = b"one" + SHARED
OTHER = b"another" + SHARED


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recordings: two chains that share most bytes, frames, a plain file."""
    # the highest level only makes the pack smaller
    monkeypatch.setattr(recording_packs, "_LEVEL", 5)
    given = tmp_path / "given"
    (given / "one").mkdir(parents=True)
    compress = zstandard.ZstdCompressor().compress
    (given / "one" / "chain.car.zst").write_bytes(compress(CHAIN))
    (given / "other.car.zst").write_bytes(compress(OTHER))
    (given / "frames.car.zst").write_bytes(compress(CHAIN) + compress(b"index"))
    (given / "network.json").write_text("{}")
    return given


def content(path: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True).read()


def test_every_file_comes_out_as_it_went_in(folder: Path, tmp_path: Path) -> None:
    made = pack(folder, "some", tmp_path)
    unpack(made, tmp_path / "out")
    out = tmp_path / "out"
    assert content(out / "one/chain.car.zst") == CHAIN
    assert content(out / "other.car.zst") == OTHER
    # whose frames matter keeps them
    assert (out / "frames.car.zst").read_bytes() == (folder / "frames.car.zst").read_bytes()
    assert (out / "network.json").read_text() == "{}"
    assert sorted(path.name for path in out.rglob("*.*")) == sorted(path.name for path in folder.rglob("*.*"))


def test_what_chains_share_is_stored_once(folder: Path, tmp_path: Path) -> None:
    (folder / "frames.car.zst").unlink()
    assert pack(folder, "some", tmp_path).stat().st_size < 1.1 * len(SHARED)


def test_the_same_files_make_the_same_pack(folder: Path, tmp_path: Path) -> None:
    assert pack(folder, "a", tmp_path).read_bytes() == pack(folder, "b", tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("sums", "why"),
    [
        (lambda text: text.replace(text[:64], "0" * 64), "has another sum"),
        (lambda text: text + "0" * 64 + "  plain/more\n", "plain/more is missing"),
        (lambda text: "".join(text.splitlines(keepends=True)[1:]), "is not listed"),
    ],
)
def test_a_pack_that_is_not_what_its_list_says_is_refused(
    folder: Path, tmp_path: Path, sums: Callable[[str], str], why: str
) -> None:
    made = pack(folder, "some", tmp_path)
    listed = tmp_path / "some.sha256"
    listed.write_text(sums(listed.read_text()))
    with pytest.raises(BadPack, match=why):
        unpacked(tmp_path, tmp_path / "caches")
    assert made.exists()
    # nothing half unpacked is taken for whole
    assert [path.name for path in (tmp_path / "caches").iterdir() if len(path.name) == 16] == []


def test_processes_that_ask_at_once_share_one_copy(folder: Path, tmp_path: Path) -> None:
    pack(folder, "some", tmp_path)
    caches = tmp_path / "caches"
    (caches / "unfinished").mkdir(parents=True)
    (caches / "unfinished" / "left-by-a-kill").touch()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = set(pool.starmap(unpacked, [(tmp_path, caches)] * 4))
    (only,) = found
    assert sorted(path.name for path in caches.iterdir()) == sorted([only.name, "lock"])
    assert not (only / "left-by-a-kill").exists()


def test_no_packs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no packs"):
        unpacked(tmp_path, tmp_path / "caches")


def test_the_packs_of_the_project_are_small_and_described() -> None:
    assert sum(path.stat().st_size for path in PACKS.iterdir()) < 35_000_000
    text = (PACKS / "README.md").read_text()
    names = [Path(line) for path in PACKS.glob("*.sha256") for line in path.read_text().splitlines()]
    assert len(names) >= 40
    for name in names:
        assert name.name in text or f"`{name.parent.name}/`" in text, name
