"""Store URLs: shown without secrets, and what is wrong with one is named without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.cassandra.address import CassandraAddress, Tls
from blockstore.errors import StoreError
from blockstore.open import open_store
from blockstore.store_url import public_url

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"cassandra://web:{SECRET}@db1,db2:9042/ks", "cassandra://db1,db2:9042/ks"),
        (f"cassandra://web:a@{SECRET}@db1/ks", "cassandra://db1/ks"),
        (f"cassandra://web:{SECRET}/?@db1/ks?tls=1&ca=/etc/ca.pem", "cassandra://db1/ks?tls=1&ca=/etc/ca.pem"),
        (f"casandra://web:{SECRET}@db1/ks", "casandra://db1/ks"),
        (f"web:{SECRET}@db1/ks", "db1/ks"),
        ("lmdb:///var/a@b/store", "lmdb:///var/a@b/store"),
        ("memory://x", "memory://x"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        f"cassandra://web:{SECRET}@db/BAD",
        f"casandra://web:{SECRET}@db/ks",
        f"cassandra://web:{SECRET}@db/ks?tls=maybe",
        f"cassandra://web:{SECRET}@db/ks?tls=1",
        f"cassandra://web:{SECRET}@db/ks?tls=1&ca=/nowhere.pem",
    ],
)
async def test_errors_show_no_password(url: str) -> None:
    with pytest.raises(StoreError) as told:
        await open_store(url)
    assert SECRET not in str(told.value)


def test_tls_parameters() -> None:
    address = CassandraAddress.parse("cassandra://me:p%40ss@a/ks?tls=1&ca=/c%20a.pem&cert=/b.pem&key=/k.pem")
    assert address.tls == Tls("/c a.pem", "/b.pem", "/k.pem")
    assert address.url == "cassandra://a:9042/ks?tls=1"
    assert "p@ss" not in repr(address)
    assert CassandraAddress.parse("cassandra://a/ks?tls=0").tls is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("tls=1", "needs ca=FILE"),
        ("ca=/a", "ca in the store URL needs tls=1"),
        ("tls=0&key=/a", "key in the store URL needs tls=1"),
        ("tls=1&ca=/a&cert=/b", "cert and key"),
        ("tls=1&ca=/a&tls=1", "stands twice"),
        ("tls=1&cafile=/a", "no parameter 'cafile'"),
        ("tls=yes", "is 1 or 0"),
    ],
)
def test_wrong_tls_parameters_are_named(query: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        CassandraAddress.parse(f"cassandra://a/ks?{query}")


def test_wrong_tls_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("nothing of the kind")
    with pytest.raises(StoreError, match=r"ca=/nowhere\.pem: No such file"):
        Tls("/nowhere.pem").texts()
    with pytest.raises(StoreError, match=r"ca=.*text\.pem: no PEM file of certificates"):
        Tls(str(text)).texts()
