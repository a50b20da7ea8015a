"""What a snapshot holds: how far down it takes headers, messages and states. Whether the store holds all of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from blockstore.cid import Cid
from blockstore.store import META, Store
from chain.errors import BadRequest, NotHeld
from chain.index.chain_index import HELD_MESSAGES, HELD_STATE, ChainIndex
from chain.index.coverage import covered, ranges_text
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge.imports.import_state import MARK
from leader_bridge.store.coverage import TIPSETS_INDEX

#: states that a full node wants at least: finality
FINALITY: Final = 900
#: states that Forest's snapshots have by default
DEFAULT_STATE_ROOTS: Final = 2000
_CACHE_BYTES: Final = 16 << 20
#: tipsets below the states that are asked whether their messages are held
_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True)
class Scope:
    """What a snapshot holds.

    States of the tipsets above epoch `head.height - state_roots`; messages of the tipsets at `messages_from` and above;
    headers down to the first one below epoch `lowest` (0: the genesis), which is left out. With `base`: only what is
    above the tipset `base`, and of that, only what a snapshot of `base` with `base_states` states does not hold: those
    states and the messages beside them, and the state of the block `genesis`.
    """

    head: Tipset
    state_roots: int
    lowest: int = 0
    messages_from: int = 0
    base: Tipset | None = None
    base_states: int = 900
    genesis: Cid | None = None

    @property
    def states_above(self) -> int:
        """States are of tipsets above this epoch."""
        return self.head.height - self.state_roots

    @property
    def lowest_state(self) -> int:
        """The lowest epoch whose state is read, the genesis aside."""
        lowest = self.states_above + 1
        if self.base is not None:
            lowest = min(max(lowest, self.base.height + 1), self.base.height - self.base_states + 1)
        return max(0, lowest)


async def snapshot_scope(
    store: Store,
    *,
    state_roots: int,
    tipset: int | None = None,
    lowest: int = 0,
    skip_old_messages: bool = False,
    base: int | None = None,
) -> Scope:
    """The scope of a snapshot of the store's chain, checked against what the rows say is held.

    `tipset`: the epoch of the snapshot's head; of a null round, the tipset before it (None: the store's head).
    `lowest`: the epoch below which headers are left out. `skip_old_messages`: messages as far down as states only.
    `base`: the epoch with which the snapshot is a difference. Errors: NotHeld, BadRequest, StoreUnavailable.
    """
    entry = await store.head()
    if entry is None or await store.row(META, b"", MARK) is not None:
        raise NotHeld("a chain: the store has no head yet, or an import has not ended")
    index = ChainIndex(store, Objects(store, cache_bytes=_CACHE_BYTES))
    head = await index.tipset(TipsetKey(entry.head.key))
    if tipset is not None:
        if tipset > head.height or tipset < 0:
            raise BadRequest(f"epoch {tipset} is not on the chain: the store's head is at {head.height}")
        head = await index.at_height(head, tipset)
    if lowest < 0 or lowest > head.height:
        raise BadRequest(f"headers from epoch {lowest} on: the snapshot's head is at {head.height}")
    scope = Scope(head, state_roots, lowest)
    if skip_old_messages:
        scope = replace(scope, messages_from=max(0, scope.states_above + 1))
    if base is not None:
        if not 0 <= base < head.height:
            raise BadRequest(f"a difference with epoch {base}: it must be below the snapshot's head, at {head.height}")
        network = await load_network(store)
        scope = replace(
            scope, base=await index.at_height(head, base), genesis=None if network is None else network.genesis
        )
    await _check_held(store, index, scope)
    return scope


async def _check_held(store: Store, index: ChainIndex, scope: Scope) -> None:
    """Refuse at once what would fail after an hour. What rows do not tell, the walk does."""
    top = scope.head.height
    stop = scope.lowest if scope.base is None else max(scope.lowest, scope.base.height + 1)
    ranges = await covered(store, TIPSETS_INDEX)
    held = next((low for low, high in ranges if low <= top <= high), 0)
    if held > stop:
        raise NotHeld(f"headers below epoch {held} (held: {ranges_text(ranges)}): end the file there, --from {held}")
    kept = await load_kept(store)
    low_messages = max(stop, scope.messages_from)
    if kept.messages > low_messages:
        raise NotHeld(f"messages below epoch {kept.messages}: leave old ones out with --skip-old-messages")
    low_state = max(scope.lowest_state, scope.lowest)
    if kept.state > low_state:
        raise _no_state(kept.state - 1, top)
    await index.read_rows(low_state, top)
    key = scope.head.key
    while (row := await index.row(key)) is not None and row.height >= low_state:
        if not row.held & HELD_STATE:
            raise _no_state(row.height, top)
        if row.height >= low_messages:
            _check_messages(row.height, row.held)
        if row.parent_height < 0:
            return
        key = row.parent
    for number in range(_SAMPLES):
        height = low_messages + (low_state - low_messages) * number // _SAMPLES
        if height < low_state:
            tipset = await index.at_height(scope.head, height, previous=False)
            row = await index.row(tipset.key)
            if row is not None:
                _check_messages(row.height, row.held)


def _no_state(height: int, top: int) -> NotHeld:
    return NotHeld(
        f"the state at epoch {height}: at most {top - height} epochs of states can be exported (--state-roots); the "
        "setting keep_state_epochs says how many a store keeps"
    )


def _check_messages(height: int, held: int) -> None:
    if not held & HELD_MESSAGES:
        raise NotHeld(f"the messages at epoch {height}: leave old ones out with --skip-old-messages")
