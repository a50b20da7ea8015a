"""Reads of a far store that the receipt of a transaction waits for: counted by a clock that each read moves on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from benches.chain_methods import services_over
from benches.stores.round_trips import FarStore
from blockstore.lmdb.store import LmdbStore
from blockstore.store import ETH_TXS
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from follower.ahead.rows_ahead import read_rows_ahead
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.bridge.imported import lmdb_of_devnet
from tests.support.virtual_time import run_virtual

pytestmark = pytest.mark.recorded

METHODS = ("eth_getTransactionReceipt", "eth_getTransactionByHash")


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    register_all()
    return lmdb_of_devnet(tmp_path_factory.mktemp("unknown") / "store")


async def waits(path: Path, methods: tuple[str, ...], digest: str, *, objects_near: bool = False) -> list[Any]:
    """For each of these calls, one after the other: (result, reads that it waited for in series, reads)."""
    store = await LmdbStore.open(path, readonly=True)
    far: Any = FarStore(store)
    services = await services_over(far)
    if objects_near:
        services.objects = Objects(store)
        services.index = ChainIndex(far, services.objects, services.network)
    await read_rows_ahead(far, services.index, 1e9)
    dispatcher = Dispatcher(services)
    await dispatcher.http(1, b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":[]}')
    loop = asyncio.get_running_loop()
    found = []
    for method in methods:
        began, before = loop.time(), len(far.trips)
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [digest]})
        answer = orjson.loads((await dispatcher.http(1, body))[1])
        found.append((answer["result"], round(loop.time() - began), len(far.trips) - before))
    await store.close()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_hash_is_one_wait_and_none_while_the_head_stands(devnet: Path, method: str) -> None:
    # the row of the transaction, the object, the row of a tipset with this key
    assert run_virtual(waits(devnet, (method, method), "0x" + "ab" * 32)) == [(None, 1, 3), (None, 0, 0)]


async def known(path: Path, *, signed_as_one: bool) -> str:
    """The hash of a transaction of the chain: of one that was signed as one, or of a native message."""
    store = await LmdbStore.open(path, readonly=True)
    dispatcher = Dispatcher(await services_over(store))
    try:
        for height in range(1300, 1000, -1):
            params = [hex(height), False]
            body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": params})
            block = orjson.loads((await dispatcher.http(1, body))[1]).get("result")
            for digest in block["transactions"] if block else ():
                if (await store.row(ETH_TXS, bytes.fromhex(digest[2:]), b"") is not None) == signed_as_one:
                    return str(digest)
        raise AssertionError("the chain has none")
    finally:
        await store.close()


@pytest.mark.parametrize("signed_as_one", [True, False])
def test_a_known_hash_waits_no_longer_and_costs_nothing_more_once_it_is_met(devnet: Path, signed_as_one: bool) -> None:
    digest = asyncio.run(known(devnet, signed_as_one=signed_as_one))
    first, second = run_virtual(waits(devnet, (METHODS[0],) * 2, digest, objects_near=True))
    assert first[0]["transactionHash"] == digest
    # the second wait is for the tipset of the message that the first one told
    assert first[1] == 2 and first[2] == 3
    assert second == (first[0], 0, 0)
