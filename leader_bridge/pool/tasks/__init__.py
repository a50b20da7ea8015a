"""What workers do: one file a subject. A task is an idempotent function of a store and a tipset (`task.TaskKind`).

To add one, declare a `TaskKind` and put it into `ALL`. Each calls what the bridge itself calls, so where there is no
pool the bridge does the same work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from leader_bridge.pool.tasks import history, indexing, moving
from leader_bridge.pool.tasks.task import CannotDo, TaskContext, TaskKind, TaskRun

ALL: Final[Mapping[str, TaskKind]] = {kind.name: kind for kind in (*indexing.KINDS, *history.KINDS, *moving.KINDS)}
#: what is done where nobody says what
DEFAULT: Final = ("messages", "eth_hashes", "events")


def bound_tasks(context: TaskContext) -> dict[str, TaskRun]:
    """The tasks that can be done with this context, by name."""
    found: dict[str, TaskRun] = {}
    for name, kind in ALL.items():
        try:
            found[name] = kind.make(context)
        except CannotDo:
            continue
    return found
