"""What serving in place is judged by: every answer that a real Lotus gave, from files that were never imported."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from blockstore.archive.tier import ArchiveOptions, Archives
from blockstore.lmdb.store import LmdbStore
from leader_bridge.imports.in_place import index_archives
from tests.archive.files import carv2_of, forest_of
from tests.archive.range_server import range_server
from tests.support.recorded import recorded
from tests.support.recorded_answers import COMPARED, assert_recorded_answers
from tests.support.served import served

FORMS = {"forest": forest_of, "carv2": carv2_of}
CASES = [
    pytest.param("devnet", "forest", False, id="devnet-forest"),
    *(
        pytest.param(folder, form, remote, id=f"{folder}-{form}{'-http' * remote}", marks=pytest.mark.long)
        for folder in COMPARED
        for form in FORMS
        for remote in (False, True)
        if (folder, form, remote) != ("devnet", "forest", False)
    ),
]


@contextlib.asynccontextmanager
async def place_of(file: Path, remote: bool) -> AsyncIterator[str]:
    """The file's path, or a URL of it."""
    if not remote:
        yield str(file)
        return
    async with range_server(file) as server:
        yield server.url


@pytest.mark.recorded
@pytest.mark.parametrize(("folder", "form", "remote"), CASES)
async def test_every_recorded_answer_is_equal(
    folder: str, form: str, remote: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    file = FORMS[form](recorded(f"{folder}/chain.car.zst"), tmp_path / f"chain.{form}")
    store = await LmdbStore.open(tmp_path / "store")
    async with place_of(file, remote) as place:
        archives = await Archives.open([place], ArchiveOptions(cache_folder=tmp_path / "cache"))
        await index_archives(store, archives, network_file=recorded(f"{folder}/network.json"), actor_code=True)
        async with served(store, archives=archives) as server:
            await assert_recorded_answers(f"http://127.0.0.1:{server.port}", folder, record_property)
        # nothing was imported, and nothing of what was read was stored
        assert (await store.stats())["objects"] == 0
        assert sum(archives.figures("reads").values()) > 10_000
        assert archives.failures == 0
        await archives.close()
    await store.close()
