"""Objects by CID: what a lazy store would fetch, the genesis' parent, the undefined CID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockstore.cid import Cid, cid_of, parse
from blockstore.errors import StoreError, StoreUnavailable
from chain.genesis_parent import GENESIS_PARENT
from chain.ipld.objects import Objects
from rpc.server.dispatch import Dispatcher
from tests.support.made_chain import MadeChain, ask, link
from tests.support.recorded import recorded
from tests.support.wire_chain import recorded_services

PARENT = parse("bafyreiaqpwbbyjo4a42saasj36kkrpv4tsherf2e7bvezkert2a7dhonoi")


async def test_a_lazy_store_has_what_it_would_fetch_and_nothing_else() -> None:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(None, 0)])
    fetched, lost, hidden = (cid_of(raw) for raw in (b"\x81\x01", b"\x81\x02", b"\x81\x03"))

    async def fetch(cids: Sequence[Cid]) -> Sequence[bytes | StoreError | None]:
        found: dict[Cid, bytes | StoreError | None] = {
            fetched: b"\x81\x01",
            hidden: StoreUnavailable("no node answers"),
        }
        return [found.get(cid) for cid in cids]

    services = chain.services()
    dispatcher = Dispatcher(replace(services, objects=Objects(chain.store, fetch=fetch)))
    for cid, held in ((fetched, True), (lost, False)):
        assert (await ask(dispatcher, "ChainHasObj", link(cid)))["result"] is held
        assert ("result" in await ask(dispatcher, "ChainReadObj", link(cid))) is held
    # a node that does not answer has not said that it lacks the object
    assert (await ask(dispatcher, "ChainHasObj", link(hidden)))["error"]["code"] == -32002


async def test_that_an_object_is_held_is_kept_and_that_it_is_not_is_looked_up_again() -> None:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(None, 0)])
    dispatcher = Dispatcher(chain.services())
    raw = b"\x81\x07"
    hits = dispatcher.metrics.method("Filecoin.ChainHasObj")
    assert [(await ask(dispatcher, "ChainHasObj", link(cid_of(raw))))["result"] for _ in range(3)] == [False] * 3
    assert hits.hits == 0
    await chain.put(raw)
    assert [(await ask(dispatcher, "ChainHasObj", link(cid_of(raw))))["result"] for _ in range(3)] == [True] * 3
    assert hits.hits == 2


async def test_the_undefined_cid_is_an_identity_cid_to_a_nodes_store() -> None:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(None, 0)])
    dispatcher = Dispatcher(chain.services())
    assert (await ask(dispatcher, "ChainHasObj", None))["result"] is True
    refused = await ask(dispatcher, "ChainReadObj", None)
    assert refused["error"]["message"].startswith("blockstore get: error decoding identity cid b: ")


async def test_the_parent_of_the_genesis_is_held() -> None:
    services = await recorded_services(recorded("devnet"))
    dispatcher = Dispatcher(services)
    genesis = (await ask(dispatcher, "ChainGetGenesis"))["result"]
    assert genesis["Blocks"][0]["Parents"] == [link(PARENT)]
    assert await services.objects.get(PARENT) == GENESIS_PARENT
    assert await services.objects.get_many([PARENT, PARENT]) == [GENESIS_PARENT] * 2
    stat = (await ask(dispatcher, "ChainStatObj", genesis["Cids"][0], None))["result"]
    assert stat["Links"] > 50
    without = (await ask(dispatcher, "ChainStatObj", genesis["Cids"][0], link(PARENT)))["result"]
    assert without == {"Links": stat["Links"] - 1, "Size": stat["Size"] - len(GENESIS_PARENT)}
