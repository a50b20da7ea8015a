"""Tasks that move objects: to the generation that a retention pass fills, and to the disk of this machine.

What they do depends on where, so their names say it: `retention@3` copies to generation 3, `warm@HOST` fills the cache
of a machine. `placed` completes the names that people give.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from blockstore.errors import Missing
from blockstore.generations import GenerationalStore, Layout
from blockstore.store import Store
from chain.errors import NotHeld
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.state.tipset_events import load_events_after, read_receipts
from chain.tipset import Tipset
from chain.tipset_messages import load_block_messages
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.pool.reports import Status
from leader_bridge.pool.tasks.tables import PREFIX, placed_table
from leader_bridge.pool.tasks.task import CannotDo, Outcome, TaskContext, TaskKind, TaskRun
from leader_bridge.retention.copy_rate import CopyRate
from leader_bridge.retention.copying import Copier
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter

RETENTION: Final = "retention"
WARM: Final = "warm"
#: objects a second that one worker copies, at most
_RATE: Final = 20_000.0
#: bytes of objects that warming keeps in memory: what is read goes to the disk
_MEMORY: Final = 1 << 20


def _target(layout: Layout) -> int | None:
    """The generation that is being filled: the next one, or the current one while the previous one is still held."""
    if layout.next is not None:
        return layout.next
    return None if layout.previous is None else layout.current


async def placed(store: Store, tasks: Sequence[str], tables_store: str = "") -> tuple[str, ...]:
    """The full names of tasks. `tables_store`: where rows of tables go.

    Errors: CannotDo (no generation is being filled, rows have no place), StoreError.
    """
    found: list[str] = []
    for task in tasks:
        if task == RETENTION:
            target = _target(await store.layout()) if isinstance(store, GenerationalStore) else None
            if target is None:
                raise CannotDo("no generation of objects is being filled: there is nothing to copy for retention")
            found.append(f"{RETENTION}@{target}")
        elif task == WARM:
            found.append(f"{WARM}@{socket.gethostname()}")
        elif task.startswith(PREFIX):
            found.append(placed_table(task, tables_store))
        else:
            found.append(task)
    return tuple(found)


def _retention(context: TaskContext) -> TaskRun:
    store = context.store
    if not isinstance(store, GenerationalStore):
        raise CannotDo("the store has no generations")
    generations: GenerationalStore = store
    rate = CopyRate(_RATE)

    async def run(store: Store, tipset: Tipset) -> Outcome:
        target = _target(await generations.layout())
        if target is None:
            return Outcome(Status.SKIP, "no generation is being filled any more")
        kept = await load_kept(store)
        if tipset.height < kept.messages:
            return Outcome(Status.SKIP, f"the store keeps messages from epoch {kept.messages} on")
        await generations.make_generation(target)
        writer = TipsetWriter(store, Mirror(store, NoNodes()))
        copier = Copier(store, writer, target, rate, actor_code=True)
        lasting = kept.policy.get("messages", 0) is None
        await copier.messages(tipset.key, tipset.height, tipset.parents, lasting=lasting)
        return Outcome()

    return run


def _warm(context: TaskContext) -> TaskRun:
    if context.near is None:
        raise CannotDo("this machine keeps no objects on disk (object_tier_dir)")
    objects = Objects(context.near, cache_bytes=_MEMORY)

    async def run(store: Store, tipset: Tipset) -> Outcome:
        child = await context.child(tipset)
        try:
            await objects.get_many([*tipset.key.cids, *child.key.cids])
            for block in tipset.blocks:
                await load_block_messages(objects, block)
            receipts = await read_receipts(objects, child.parent_message_receipts)
            await load_events_after(objects, receipts, child.parent_state_root)
        except (Missing, NotHeld) as error:
            return Outcome(Status.SKIP, f"the contents of epoch {tipset.height} are not held: {error}")
        return Outcome()

    return run


KINDS: Final = (
    TaskKind(RETENTION, "Copies messages and receipts to the generation that a retention pass fills.", _retention),
    TaskKind(WARM, "Reads messages, receipts and events into the cache of this machine's disk.", _warm),
)
