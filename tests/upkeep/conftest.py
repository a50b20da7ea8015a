"""A recorded chain in a store on disk, made once, and copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from devnode.replay import ReplayNode, start_replay
from tests.support.bridge.imported import lmdb_of_devnet
from tests.support.recorded import recorded


@pytest.fixture(scope="session")
def devnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded devnet chain, imported; never written to."""
    return lmdb_of_devnet(tmp_path_factory.mktemp("devnet") / "store")


@pytest.fixture
async def store(devnet_folder: Path, tmp_path: Path) -> AsyncIterator[LmdbStore]:
    """A copy of it."""
    shutil.copytree(devnet_folder, tmp_path / "store")
    opened = await LmdbStore.open(tmp_path / "store", bulk=True)
    yield opened
    await opened.close()


@pytest.fixture
async def node() -> AsyncIterator[ReplayNode]:
    """A full node that holds the whole chain."""
    playing = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    yield playing
    await playing.stop()
