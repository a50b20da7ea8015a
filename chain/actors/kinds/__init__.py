"""One module an actor kind: its states and the parameters of its methods, as tables.
Importing this package registers every kind. Code that walks states lives one room up.
"""

from chain.actors.kinds import (
    account,
    cron,
    datacap,
    eam,
    ethaccount,
    evm,
    init,
    market,
    miner,
    multisig,
    paych,
    placeholder,
    power,
    reward,
    system,
    verifreg,
)

__all__ = [
    "account",
    "cron",
    "datacap",
    "eam",
    "ethaccount",
    "evm",
    "init",
    "market",
    "miner",
    "multisig",
    "paych",
    "placeholder",
    "power",
    "reward",
    "system",
    "verifreg",
]
