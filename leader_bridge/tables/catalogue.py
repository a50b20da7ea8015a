"""All tasks, by the name that `--tasks` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chain.errors import BadRequest
from leader_bridge.tables.actors import ACTOR_STATES, ACTORS
from leader_bridge.tables.blocks import BLOCK_HEADERS, BLOCK_PARENTS
from leader_bridge.tables.contracts import FEVM_CONTRACTS
from leader_bridge.tables.events import EVENTS
from leader_bridge.tables.executed import GAS_OUTPUTS, PARSED_MESSAGES, RECEIPTS
from leader_bridge.tables.market import MARKET_DEAL_PROPOSALS, MARKET_DEAL_STATES
from leader_bridge.tables.messages import BLOCK_MESSAGES, MESSAGES
from leader_bridge.tables.miners import MINER_INFOS, MINER_SECTOR_INFOS
from leader_bridge.tables.power import CHAIN_POWERS, CHAIN_REWARDS, POWER_ACTOR_CLAIMS
from leader_bridge.tables.table import Task

TASKS: Final[dict[str, Task]] = {
    task.name: task
    for task in (
        BLOCK_HEADERS,
        BLOCK_PARENTS,
        MESSAGES,
        BLOCK_MESSAGES,
        RECEIPTS,
        PARSED_MESSAGES,
        GAS_OUTPUTS,
        EVENTS,
        ACTORS,
        ACTOR_STATES,
        MINER_INFOS,
        MINER_SECTOR_INFOS,
        POWER_ACTOR_CLAIMS,
        CHAIN_POWERS,
        CHAIN_REWARDS,
        MARKET_DEAL_PROPOSALS,
        MARKET_DEAL_STATES,
        FEVM_CONTRACTS,
    )
}
#: stands for every task
ALL: Final = "all"


def find_tasks(names: Iterable[str]) -> list[Task]:
    """The tasks of these names, or of the tables they make; `all` for every one. Each once, in the catalogue's order.

    Errors: BadRequest, which lists those that there are.
    """
    by_table = {task.table.name: task for task in TASKS.values()}
    wanted: set[str] = set()
    for name in names:
        found = TASKS.get(name) or by_table.get(name)
        if name == ALL:
            wanted.update(TASKS)
        elif found is None:
            raise BadRequest(f"{name!r} is no task: {', '.join(TASKS)} are, and {ALL}")
        else:
            wanted.add(found.name)
    return [task for name, task in TASKS.items() if name in wanted]
