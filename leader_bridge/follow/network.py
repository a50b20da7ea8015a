"""The network of a node, compared with the store's; a fresh store adopts it.

Lotus tells the network's name, its genesis and the upgrade heights it was built with. The schedule that is
in force can be another (a private network changes it without saying so), so it is checked against the
version at the node's head, and where they differ found by asking for the version at tipsets between.
Sources: Lotus `chain/consensus/filcns/upgrades.go`, `chain/stmgr/forks.go` (heights below 0: from genesis).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import WrongNetwork
from blockstore.store import Batch, Store
from chain.known_networks import known_network
from chain.network import NetworkRecord, load_network, network_of, read_network_file, save_network
from leader_bridge.nodes.subscription import fetch_chain_head, parse_key, parse_tipset
from leader_bridge.store.recorder import keep_network_params
from rpc.client.client import NodeClient
from rpc.json_wire import key_json
from rpc.node_errors import BadAnswer, CallFailed

log = logging.getLogger(__name__)

#: the network version that begins behind each upgrade height of `StateGetNetworkParams`
_UPGRADES: Final = (
    ("UpgradeBreezeHeight", 1),
    ("UpgradeSmokeHeight", 2),
    ("UpgradeIgnitionHeight", 3),
    ("UpgradeRefuelHeight", 3),
    ("UpgradeAssemblyHeight", 4),
    ("UpgradeTapeHeight", 5),
    ("UpgradeLiftoffHeight", 5),
    ("UpgradeKumquatHeight", 6),
    ("UpgradeCalicoHeight", 7),
    ("UpgradePersianHeight", 8),
    ("UpgradeOrangeHeight", 9),
    ("UpgradeTrustHeight", 10),
    ("UpgradeNorwegianHeight", 11),
    ("UpgradeTurboHeight", 12),
    ("UpgradeHyperdriveHeight", 13),
    ("UpgradeChocolateHeight", 14),
    ("UpgradeOhSnapHeight", 15),
    ("UpgradeSkyrHeight", 16),
    ("UpgradeSharkHeight", 17),
    ("UpgradeHyggeHeight", 18),
    ("UpgradeLightningHeight", 19),
    ("UpgradeThunderHeight", 20),
    ("UpgradeWatermelonHeight", 21),
    ("UpgradeDragonHeight", 22),
    ("UpgradeWaffleHeight", 23),
    ("UpgradeTuktukHeight", 24),
    ("UpgradeTeepHeight", 25),
    ("UpgradeTockHeight", 26),
    ("UpgradeGoldenWeekHeight", 27),
    ("UpgradeFireHorseHeight", 28),
    ("UpgradeXxHeight", 29),
)


def schedule_of(params: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """(height, version) from `ForkUpgradeParams`; the version from genesis on stands at -1."""
    first = 0
    later: list[tuple[int, int]] = []
    for name, version in _UPGRADES:
        height = params.get(name)
        if not isinstance(height, int):
            continue
        if height < 0:
            first = max(first, version)
        elif not later or version > later[-1][1]:
            later.append((height, version))
    return ((-1, first), *sorted((h, v) for h, v in later if v > first))


async def network_identity(client: NodeClient) -> tuple[str, Cid, str]:
    """(network name, genesis block, address prefix) of a node. Errors: NodeError."""
    name = await client.call("Filecoin.StateNetworkName")
    genesis = await client.call("Filecoin.ChainGetGenesis")
    if not isinstance(name, str) or not isinstance(genesis, dict):
        raise BadAnswer(f"{client.name} does not say which network it is of")
    key = parse_key(genesis.get("Cids"))
    try:
        prefix = str(genesis["Blocks"][0]["Miner"])[:1]
    except (KeyError, IndexError, TypeError):
        raise BadAnswer(f"{client.name}: a genesis without a block") from None
    return name, key.cids[0], prefix


async def check_network(store: Store, client: NodeClient, network_file: Path | None) -> NetworkRecord:
    """The store's network, after making sure that the node is of it; a fresh store adopts the node's.

    Errors: WrongNetwork, which says what differs; NodeError; BadRequest (the network file).
    """
    name, genesis, prefix = await network_identity(client)
    record = await load_network(store)
    if record is None:
        if network_file is not None:
            record = read_network_file(network_file, genesis)
            _same(record, name, genesis, client)
        elif (known := known_network(genesis)) is not None:
            record = known
            if record.name != name:
                log.info("%s calls the network %r, known here as %r", client.name, name, record.name)
                record = replace(record, name=name)
        else:
            record = await _ask_network(client, name, genesis, prefix)
        batch = Batch()
        save_network(batch, record)
        await store.write(batch)
        log.info("the store is of network %s, genesis %s", name, genesis)
    _same(record, name, genesis, client)
    await keep_network_params(store, client)
    return record


def _same(record: NetworkRecord, name: str, genesis: Cid, client: NodeClient) -> None:
    if record.genesis != genesis:
        raise WrongNetwork(f"{client.name} follows a chain with genesis {genesis}, the store's is {record.genesis}")
    if record.name != name:
        raise WrongNetwork(f"{client.name} is of network {name!r}, the store of {record.name!r}")


async def _ask_network(client: NodeClient, name: str, genesis: Cid, prefix: str) -> NetworkRecord:
    params: dict[str, Any] = {}
    try:
        answer = await client.call("Filecoin.StateGetNetworkParams")
        if isinstance(answer, dict):
            params = answer
    except CallFailed as error:
        log.warning("%s does not tell the network's parameters (%s)", client.name, error)
    forks = params.get("ForkUpgradeParams")
    upgrades = schedule_of(forks if isinstance(forks, dict) else {})
    head = await fetch_chain_head(client)
    record = network_of(
        {
            "network_name": name,
            "address_prefix": prefix,
            "eth_chain_id": params.get("Eip155ChainID", 0),
            "block_delay_secs": params.get("BlockDelaySecs", 30),
            "upgrades": [{"height": h, "network_version": v} for h, v in upgrades],
        },
        genesis,
    )
    try:
        version = await client.call("Filecoin.StateNetworkVersion", key_json(head.key))
        if version != record.version_at(head.height):
            log.warning(
                "%s says network version %s at epoch %d, its parameters say %d: the schedule is looked for",
                client.name,
                version,
                head.height,
                record.version_at(head.height),
            )
            found = [(-1, int(version))]
            with contextlib.suppress(CallFailed):  # a node without old headers: its version now is all we know
                found = await find_schedule(client)
            record = network_of(
                {
                    **record.to_json(),
                    "upgrades": [{"height": h, "network_version": v} for h, v in found],
                }
            )
    except CallFailed as error:
        log.warning("%s does not tell the network version (%s)", client.name, error)
    return record


async def find_schedule(client: NodeClient) -> list[tuple[int, int]]:
    """The upgrades up to the node's head, by asking for the version at tipsets. Errors: NodeError.

    An upgrade inside null rounds is put at the last of them: no tipset tells the difference.
    """
    head = await fetch_chain_head(client)

    async def version(height: int) -> int:
        """The version at the last tipset up to `height`."""
        tipset = await client.call("Filecoin.ChainGetTipSetByHeight", height, key_json(head.key))
        _, key = parse_tipset(tipset)
        number = await client.call("Filecoin.StateNetworkVersion", key_json(key))
        if not isinstance(number, int):
            raise BadAnswer(f"{client.name}: a network version that is not a number")
        return number

    first = await version(0)
    last = await version(head.height)
    found = [(-1, first)]

    async def look(low: int, low_version: int, high: int, high_version: int) -> None:
        """Find every change in (low, high]."""
        if low_version == high_version:
            return
        if high - low <= 1:
            found.append((low, high_version))
            return
        middle = (low + high) // 2
        number = await version(middle)
        await look(low, low_version, middle, number)
        await look(middle, number, high, high_version)

    await look(0, first, head.height, last)
    return found
