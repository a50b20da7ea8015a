"""The plain look-ups in a state tree: every recorded answer, texts of errors included, and what none recorded."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import rpc.methods.state.actors  # noqa: F401  (declares)
from chain.address import delegated
from chain.state.state_tree import StateTree
from follower.commands.comparison import judge, read_records
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from tests.rpc.methods.test_recorded_chain import ask, services_of
from tests.support.recorded import recorded

MINE = re.compile(
    r"Filecoin\.(StateGetActor|StateLookupID|StateAccountKey|StateLookupRobustAddress|StateListActors|WalletBalance"
    r"|StateChangedActors|StateActorCodeCIDs|StateActorManifestCID|WalletValidateAddress)$"
)


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_every_recorded_answer(folder: str) -> None:
    dispatcher = Dispatcher(await services_of(folder))
    wrong: list[str] = []
    methods = set()
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), MINE, ("/rpc/v0", "/rpc/v1")):
        methods.add(record.method)
        answer = await ask(dispatcher, record.path, record.method, record.params)
        why, _ = judge(record, answer)
        wanted = record.answer.get("error")
        if why is None and wanted is not None and answer["error"]["message"] != wanted["message"]:
            why = f"{answer['error']['message']} is not {wanted['message']}"
        if why is not None:
            wrong.append(f"{record.path} {record.method} {str(record.params)[:120]}: {why}")
    assert not wrong, "\n".join(wrong[:20])
    assert len(methods) == 10


@pytest.mark.recorded
async def test_many_look_ups_share_decoded_nodes() -> None:
    services = await services_of("devnet")
    dispatcher = Dispatcher(services, settings=ServerSettings(answer_cache_bytes=0))
    for _ in range(3):
        for number in range(1000, 1100):
            await ask(dispatcher, "/rpc/v1", "Filecoin.StateGetActor", [f"f0{number}", None])
    cache = services.caches["node_cache"]
    assert cache.hits > 2 * cache.misses


@pytest.mark.recorded
async def test_an_account_that_the_head_makes_is_found_in_the_state_after_it() -> None:
    services = await services_of("devnet")
    dispatcher = Dispatcher(services)
    tipset = (await services.head_source.current()).tipset
    made = 0
    for _ in range(400):
        if not tipset.height or made > 3:
            break
        parent = await services.index.parent(tipset)
        before = await StateTree.load(services.objects, parent.parent_state_root)
        after = await StateTree.load(services.objects, tipset.parent_state_root)
        async for address, old, new in before.diff(after):
            if old is None and new is not None and new.delegated is not None:
                key = [{"/": str(cid)} for cid in parent.key.cids]
                answer = await ask(dispatcher, "/rpc/v1", "Filecoin.StateAccountKey", [address.text(), key])
                assert answer["result"] == new.delegated.text()
                made += 1
        tipset = parent
    assert made > 0


@pytest.mark.recorded
async def test_errors_name_addresses_with_the_network_s_letter() -> None:
    services = await services_of("devnet")
    services.network = replace(services.network, address_prefix="t")
    dispatcher = Dispatcher(services)
    nobody = delegated(10, b"\x99" * 20).text("f")
    for method, params in (
        ("StateGetActor", [nobody, []]),
        ("StateAccountKey", ["f0555555", []]),
        ("StateLookupRobustAddress", ["f00", []]),
    ):
        message = (await ask(dispatcher, "/rpc/v1", f"Filecoin.{method}", params))["error"]["message"]
        assert re.search(r"\bt[04]", message), message
        assert not re.search(r"\bf[0-4]", message), message
