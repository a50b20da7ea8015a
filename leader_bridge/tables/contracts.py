"""The table of contracts of the EVM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from chain.eth.types import own_eth_address
from leader_bridge.tables.actors import kind_of
from leader_bridge.tables.source import TipsetView, held
from leader_bridge.tables.table import Row, Task, table

_EVM: Final = "evm"


async def _contracts(view: TipsetView) -> AsyncIterator[list[Row]]:
    now = await view.states()
    async for part in view.changes():
        for _, _, new in part:
            if new is None or new.delegated is None:
                continue
            eth_address = own_eth_address(new.delegated)
            kind = await kind_of(view, now, new)
            if eth_address is None or kind is None or kind[0] != _EVM:
                continue
            with held(f"the state at epoch {view.height}"):
                state = (await now.state_of(new, "evm")).state
            code = await view.object(state["Bytecode"])
            yield [
                (
                    view.height,
                    view.source.address(new.delegated),
                    "0x" + eth_address.hex(),
                    code.hex(),
                    state["BytecodeHash"].hex(),
                    new.balance,
                    new.nonce,
                )
            ]


FEVM_CONTRACTS: Final = Task(
    "fevm_contracts",
    table(
        "fevm_contracts",
        "Contracts that differ from the parent tipset's state.",
        key="height actor_id nonce",
        columns="""
height          bigint  Epoch of the tipset before whose messages it is so.
actor_id        text    Delegated address (f410) of the contract.
eth_address     text    The same as Ethereum has it, 0x and 40 hexadecimal digits.
byte_code       text    Bytecode, hexadecimal.
byte_code_hash  text    Its Keccak-256, hexadecimal.
balance         numeric attoFIL.
nonce           bigint  Nonce of the actor.
""",
    ),
    _contracts,
)
