"""TLS to the store, with a real Cassandra that demands it of its clients."""

from __future__ import annotations

import pytest

from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.open import SharedStoreOptions, open_store
from blockstore.store import META, Batch
from tests.support.cassandra.server import cassandra_with_tls

KEYSPACE = "follower_tls"


def url(parameters: str) -> str:
    """A URL of the server; `{}` in the parameters stands for the folder of PEM files."""
    hosts, folder = cassandra_with_tls()
    return f"cassandra://{hosts}/{KEYSPACE}" + parameters.replace("{}", str(folder))


OURS = "?tls=1&ca={}/ca.pem&cert={}/client.pem&key={}/client.key"


async def test_schema_and_data_go_by_tls() -> None:
    # the schema is made by another driver than the data path's
    store = await open_store(url(OURS), shared=SharedStoreOptions(may_create_tables=True))
    try:
        assert isinstance(store, CassandraStore)
        assert store.url.endswith(f"/{KEYSPACE}?tls=1")
        await store.write(Batch([(META, b"", b"k", b"v")]))
        assert await store.row(META, b"", b"k") == b"v"
        assert await store.head() is None
    finally:
        await store.close()


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("", id="no TLS"),
        pytest.param("?tls=1&ca={}/ca.pem", id="no certificate of the client"),
        pytest.param("?tls=1&ca={}/ca.pem&cert={}/other-client.pem&key={}/other-client.key", id="unknown client"),
        pytest.param("?tls=1&ca={}/other-ca.pem&cert={}/client.pem&key={}/client.key", id="unknown server"),
    ],
)
async def test_who_does_not_show_or_know_the_right_certificate_stays_out(parameters: str) -> None:
    for shared in (SharedStoreOptions(), SharedStoreOptions(may_create_tables=True)):
        with pytest.raises(StoreUnavailable) as told:
            await open_store(url(parameters), shared=shared)
        text = str(told.value)
        assert "PRIVATE" not in text
        if "other-ca" in parameters:
            assert "certificate" in text.lower()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("?tls=1&ca={}/gone.pem", r"ca=.*gone\.pem: No such file"),
        ("?tls=1&ca={}/client.key", r"ca=.*client\.key: no PEM file of certificates"),
        (OURS.replace("client.pem", "gone.pem"), r"cert=.*gone\.pem: No such file"),
        (OURS.replace("client.key", "server.key"), r"key=.*server\.key: no PEM certificate and its key"),
    ],
)
async def test_a_wrong_file_is_named(parameters: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as told:
        await open_store(url(parameters))
    assert "PRIVATE" not in str(told.value)
