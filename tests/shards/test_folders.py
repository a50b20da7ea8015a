"""A file in folders of shards: any that are enough give it back, and one that is not proven is left out."""

from __future__ import annotations

import itertools
import logging
import random
from pathlib import Path

import pytest

from blockstore.shards.erasure import BadShards, is_available
from blockstore.shards.files import cut_file, join_files

pytestmark = pytest.mark.skipif(not is_available(), reason="pyeclib is not installed")

DATA = random.Random(2).randbytes(300_000)


def cut_into(folder: Path, folders: int, data: bytes = DATA, name: str = "snapshot.car") -> list[Path]:
    """Shards of three segments, 16 + 4 each."""
    path = folder / "given" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    made = [folder / f"disk {number}" for number in range(folders)]
    cut_file(path, made, segment_bytes=120_000)
    return made


def test_one_of_five_folders_may_be_lost(tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    assert [len(list(folder.iterdir())) for folder in folders] == [12] * 5
    for some in itertools.combinations(folders, 4):
        into = tmp_path / "joined" / some[0].name / some[3].name
        (path,) = join_files(some, into)
        assert path.name == "snapshot.car"
        assert path.read_bytes() == DATA
        assert list(into.iterdir()) == [path]


def test_any_four_shards_of_each_piece_may_be_lost_and_a_fifth_may_not(tmp_path: Path) -> None:
    (folder,) = cut_into(tmp_path, 1)
    chance = random.Random(8)
    left = []
    for piece in range(3):
        shards = sorted(folder.glob(f"snapshot.car.{piece}.*.shard"))
        assert len(shards) == 20
        for lost in chance.sample(shards, 4):
            lost.unlink()
            shards.remove(lost)
        left = shards
    (path,) = join_files([folder], tmp_path / "joined")
    assert path.read_bytes() == DATA
    left[3].unlink()
    path.unlink()
    with pytest.raises(BadShards, match=r"from byte 240,000: 15 of 16 shards"):
        join_files([folder], tmp_path / "joined")
    assert list((tmp_path / "joined").iterdir()) == []


@pytest.mark.parametrize("at", [0, 60, -1], ids=["no JSON", "another manifest", "another byte"])
def test_a_flipped_byte_costs_one_shard(tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture) -> None:
    folders = cut_into(tmp_path, 5)
    broken = folders[2] / "snapshot.car.1.2.shard"
    data = bytearray(broken.read_bytes())
    data[at] ^= 1
    broken.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        (path,) = join_files(folders, tmp_path / "joined")
    assert path.read_bytes() == DATA
    if at == -1:
        assert "its proof does not lead to the root" in caplog.text


def test_shards_of_two_files_give_both_and_none_give_none(tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 2)
    cut_into(tmp_path, 2, DATA[:5000], "other.car")
    found = join_files(folders, tmp_path / "joined")
    assert {path.name: path.read_bytes() for path in found} == {"snapshot.car": DATA, "other.car": DATA[:5000]}
    with pytest.raises(BadShards, match="no shards in"):
        join_files([tmp_path / "given"], tmp_path / "joined")
