"""A mix made of the target's own chain, for `follower bench` without a mix file.

The shares are those that an RPC provider published for its busiest methods (Forest, issue 7155), without `eth_call` and
`trace_block`: what these ask about depends on the network's contracts, and a state or a virtual machine is executed.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from follower.commands.load.mix import Call
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from rpc.node_errors import NodeError

#: calls that are made, and epochs below the head that they ask about
_CALLS: Final = 2000
_EPOCHS: Final = 100
#: shares of a hundred
SHARES: Final = {
    "eth_getBlockByNumber": 28,
    "Filecoin.StateGetActor": 15,
    "Filecoin.WalletBalance": 6,
    "eth_chainId": 5,
    "eth_getLogs": 5,
    "eth_blockNumber": 5,
    "Filecoin.ChainHead": 4,
    "eth_getBalance": 3,
}
#: actors that every network has: init, reward, cron, power, market, verified registry, burnt funds
_SINGLETONS: Final = (1, 2, 3, 4, 5, 6, 99)
#: of an Ethereum address that stands for an actor's ID: 20 bytes, of which the first is 255
_MASKED: Final = "0xff" + 22 * "0"


class NoChain(Exception):
    """The target does not tell of its chain what a mix is made of."""


async def make_mix(info: NodeInfo, *, seed: int = 1) -> list[Call]:
    """Calls about the newest epochs of a server's chain. Errors: NoChain."""
    try:
        async with NodeClient(info) as node:
            head = await node.call("Filecoin.ChainHead")
        height = int(head["Height"])
        key = head["Cids"]
        prefix = str(head["Blocks"][0]["Miner"])[0]
        miners = [str(block["Miner"]) for block in head["Blocks"]]
    except (KeyError, IndexError, TypeError, ValueError):
        raise NoChain(f"{info.name}: ChainHead is no tipset") from None
    except NodeError as error:
        raise NoChain(f"{info.name}: a mix needs ChainHead: {error}") from None
    random = Random(seed)
    addresses = [f"{prefix}0{number}" for number in _SINGLETONS] + miners
    names = random.choices(list(SHARES), list(SHARES.values()), k=_CALLS)
    return [Call.of(name, _params(random, name, height, key, addresses)) for name in names]


def _params(random: Random, name: str, height: int, key: Any, addresses: list[str]) -> list[Any]:
    # the last epochs are still moving; a node answers for them from what it has just made
    epoch = hex(max(0, height - 5 - random.randrange(_EPOCHS)))
    address = random.choice(addresses)
    params: dict[str, list[Any]] = {
        "eth_getBlockByNumber": [epoch, random.random() < 0.5],
        "Filecoin.StateGetActor": [address, random.choice(([], key))],
        "Filecoin.WalletBalance": [address],
        "eth_getLogs": [{"fromBlock": epoch, "toBlock": epoch}],
        "eth_getBalance": [_MASKED + f"{random.choice(_SINGLETONS):016x}", "latest"],
    }
    return params.get(name, [])
