"""A whole tipset executed: null rounds, every block's messages, rewards, cron.

Source: Lotus `chain/consensus/compute_state.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from blockstore.cid import Cid
from chain.address import from_id
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.amt import amt_build
from chain.ipld.objects import Objects
from chain.known_networks import CALIBNET
from chain.message import encode_message
from chain.network import NetworkRecord
from chain.state.id_resolver import id_resolver
from chain.tipset import Tipset
from chain.tipset_messages import IncludedMessage, load_tipset_block_messages
from rpc.executor import Applied, Executor, Place, Reward, Step, implicit_step

CRON: Final = from_id(3)
_EPOCH_TICK: Final = 2
#: the width of events' arrays
_EVENT_BITS: Final = 5
#: network versions whose upgrade changes no state
_NO_MIGRATION: Final = frozenset({20, 26})
#: epochs at which a network's state was mended without a new network version
_MENDED: Final = {CALIBNET.genesis: (1070494, 1108174, 1493854, 2558014)}
#: from this network version on, receipts name their events
EVENTS_SINCE: Final = 18


class Chain(Protocol):
    """What execution reads of the chain. A request's context has it, and so has what a bridge hands over."""

    @property
    def index(self) -> ChainIndex:
        """Tipsets by key and epoch."""

    @property
    def objects(self) -> Objects:
        """Objects by CID."""

    @property
    def network(self) -> NetworkRecord:
        """The network, with its upgrades."""


@dataclass(frozen=True, slots=True)
class Executed:
    """The roots of a tipset's state and receipts, and what became of each of its messages, in order.

    `steps` has the rewards and the cron too, those of null rounds before. By multihash: `receipt_objects`, what
    receipts and their events are made of, children first; `objects`, these and what the state is made of, where asked
    for.
    """

    root: Cid
    receipts: Cid
    messages: tuple[tuple[IncludedMessage, Applied], ...]
    steps: tuple[tuple[Step, Applied], ...]
    objects: Mapping[bytes, bytes]
    receipt_objects: Mapping[bytes, bytes]


def explicit(one: IncludedMessage) -> Step:
    """A message on chain."""
    return Step(encode_message(one.message), len(one.raw), cid=one.cid)


def crosses_migration(network: NetworkRecord, low: int, high: int) -> int | None:
    """The epoch in `[low, high)` at which an upgrade or a mending changes the state; None where there is none."""
    changes = [height for height, version in network.upgrades if version not in _NO_MIGRATION]
    found = (height for height in (*changes, *_MENDED.get(network.genesis, ())) if low <= height < high)
    return min(found, default=None)


def refuse_migration(network: NetworkRecord, low: int, high: int) -> None:
    """Refuse to go through a change of the state in `[low, high)`. Errors: NotHeld."""
    epoch = crosses_migration(network, low, high)
    if epoch is not None:
        raise NotHeld(f"execution across the change of the state at epoch {epoch}")


def place_at(chain: Chain, tipset: Tipset, root: Cid, epoch: int, timestamp: int, *, tracing: bool = False) -> Place:
    """Where a machine runs for a tipset."""
    return Place(
        root=root,
        epoch=epoch,
        timestamp=timestamp,
        network_version=chain.network.version_at(epoch),
        chain_id=chain.network.eth_chain_id,
        base_fee=tipset.blocks[0].parent_base_fee,
        anchor=tipset.key,
        tracing=tracing,
    )


async def state_before(
    chain: Chain, executor: Executor, tipset: Tipset, *, tracing: bool = False, objects: bool = False
) -> tuple[Cid, list[tuple[Step, Applied]]]:
    """The state that a tipset's messages meet: its parent state, after the cron of the null rounds between.

    With it, the steps of those. `objects`: the state can be read for a while. Errors: NotHeld, Unavailable.
    """
    root = tipset.parent_state_root
    done: list[tuple[Step, Applied]] = []
    if tipset.height == 0:
        return root, done
    parent = await chain.index.parent(tipset)
    refuse_migration(chain.network, parent.height, tipset.height)
    if parent.height + 1 < tipset.height:
        genesis = (await chain.index.genesis()).blocks[0].timestamp
        for epoch in range(parent.height + 1, tipset.height):
            timestamp = genesis + chain.network.block_delay * epoch
            place = place_at(chain, tipset, root, epoch, timestamp, tracing=tracing)
            cron = implicit_step(CRON, _EPOCH_TICK, b"", epoch)
            run = await executor.run(place, [cron], keep_state=True, objects=objects)
            chain.objects.remember(dict(run.objects))
            _demand_success(run.applied[-1], f"cron of epoch {epoch}")
            assert run.root is not None
            root = run.root
            done += zip(run.steps, run.applied, strict=True)
    return root, done


async def tipset_steps(chain: Chain, tipset: Tipset) -> tuple[list[list[IncludedMessage]], list[Step | Reward]]:
    """(the messages of each block, all that is applied: messages, rewards, cron). Errors: NotHeld."""
    blocks = await load_tipset_block_messages(chain.objects, tipset, chain.network, id_resolver(chain.objects))
    by_block = [[*bls, *signed] for bls, signed in blocks]
    steps: list[Step | Reward] = []
    for block, messages in zip(tipset.blocks, by_block, strict=True):
        steps += [explicit(one) for one in messages]
        win_count = block.election_proof[0] if block.election_proof else 0
        steps.append(Reward(bytes(block.miner), win_count, len(messages), tipset.height))
    steps.append(implicit_step(CRON, _EPOCH_TICK, b"", tipset.height))
    return by_block, steps


async def execute_tipset(
    chain: Chain, executor: Executor, tipset: Tipset, *, tracing: bool = False, objects: bool = False
) -> Executed:
    """Execute a tipset. The state that it makes stays with the executor. Errors: NotHeld, Unavailable.

    `objects`: what state, receipts and events are made of is returned too.
    """
    root, before = await state_before(chain, executor, tipset, tracing=tracing)
    place = place_at(chain, tipset, root, tipset.height, tipset.min_timestamp, tracing=tracing)
    by_block, steps = await tipset_steps(chain, tipset)
    run = await executor.run(place, steps, keep_state=True, objects=objects)
    done: list[tuple[IncludedMessage, Applied]] = []
    at = 0
    for messages in by_block:
        done += zip(messages, run.applied[at : at + len(messages)], strict=True)
        at += len(messages) + 1
        _demand_success(run.applied[at - 1], f"the reward of a block at epoch {tipset.height}")
    _demand_success(run.applied[-1], f"cron of epoch {tipset.height}")
    assert run.root is not None
    made: dict[bytes, bytes] = {}
    has_events = chain.network.version_at(tipset.height) >= EVENTS_SINCE
    receipts = await _receipts(made, [applied for _, applied in done], has_events)
    all_steps = (*before, *zip(run.steps, run.applied, strict=True))
    return Executed(run.root, receipts, tuple(done), all_steps, {**dict(run.objects), **made} if objects else {}, made)


async def _receipts(made: dict[bytes, bytes], applied: Sequence[Applied], has_events: bool) -> Cid:
    """The root of the receipts; their objects, and those of their events, go into `made`."""

    def put(cid: Cid, data: bytes) -> None:
        made[cid.multihash] = data

    rows: list[list[Any]] = []
    for one in applied:
        rows.append([one.exit_code, one.return_, one.gas_used, *([one.events_root] if has_events else [])])
        if one.events_root is not None:
            events = [[emitter, [list(entry) for entry in entries]] for emitter, entries in one.events]
            if await amt_build(put, events, bit_width=_EVENT_BITS) != one.events_root:
                raise NotHeld("the events of an executed message: their root differs from the machine's")
    return await amt_build(put, rows, version=0)


def _demand_success(applied: Applied, what: str) -> None:
    if applied.exit_code:
        raise NotHeld(f"{what}: the virtual machine ends it with exit code {applied.exit_code}: {applied.failure}")
