"""An export from a shared store: the same file, with a bounded number of round trips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard

from blockstore.cassandra.store import CassandraStore
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import snapshot_scope
from leader_bridge.imports.importer import import_car
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.recorded import recorded


@pytest.mark.long
@pytest.mark.recorded
async def test_an_export_from_a_shared_store_is_lotus_export_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await emptied(keyspace_url("follower_exports"), delta_ms=500, epsilon_ms=50, every=True)
    await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    scope = await snapshot_scope(store, state_roots=100_000)
    reads: list[int] = []
    get_many = CassandraStore.get_many

    async def counted(self: CassandraStore, multihashes: Sequence[bytes]) -> list[bytes | None]:
        reads.append(len(multihashes))
        return await get_many(self, multihashes)

    monkeypatch.setattr(CassandraStore, "get_many", counted)
    report = await export_snapshot(store, tmp_path / "ours.car", scope)
    with recorded("devnet/snapshot.car.zst").open("rb") as file:
        assert (tmp_path / "ours.car").read_bytes() == zstandard.ZstdDecompressor().stream_reader(file).read()
    assert max(reads) <= 256
    assert len(reads) < report.objects / 10
    print(f"{report.objects:,} objects in {report.seconds:.1f} s, {len(reads):,} bursts")
    await store.close()
