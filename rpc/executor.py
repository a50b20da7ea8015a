"""The seam to the virtual machine: what is asked of an executor, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cbor2

from blockstore.cid import Cid
from chain.address import from_id
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.message import Message, encode_message
from chain.tipset import TipsetKey

SYSTEM: Final = from_id(0)
REWARD: Final = from_id(2)
#: the gas limit that Lotus gives to implicit messages
IMPLICIT_GAS: Final = (1 << 62) - 1
#: events of a trace in one part: building what is answered of them takes about a millisecond
_PART: Final = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a machine runs. Amounts in attoFIL, `timestamp` in seconds since 1970.

    The circulating supply follows from the epoch and from `supply_root`, or from `root` where that is None. `anchor` is
    the tipset whose ancestry answers questions about the chain: randomness and tipset CIDs.
    """

    root: Cid
    epoch: int
    timestamp: int
    network_version: int
    chain_id: int
    base_fee: int
    anchor: TipsetKey
    tracing: bool = False
    supply_root: Cid | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One message to apply: its unsigned CBOR, and its length on chain in bytes (a signed one is longer).

    Implicit messages may come from any actor, ignore the nonce, and pay no gas. `cid`: the message's CID on chain,
    which for a signed message is not that of its unsigned form. `gas_cap` marks what a client made up, with the most
    gas that all such messages of a run may use together: beyond it the run is refused. Its events are
    returned only where `events` says so.
    """

    message: bytes
    length: int
    implicit: bool = False
    cid: Cid | None = None
    gas_cap: int | None = None
    events: bool = False


@dataclass(frozen=True, slots=True)
class Reward:
    """Pay the miner of a block (an ID address): the tips of the `messages` steps before this one, less penalties."""

    miner: bytes
    win_count: int
    messages: int
    epoch: int

    def step(self, paid: Sequence[Applied]) -> Step:
        """The implicit message, once what the block's messages paid is known."""
        penalty, tips = sum(one.penalty for one in paid), sum(one.miner_tip for one in paid)
        params = encode([self.miner, encode_bigint(penalty), encode_bigint(tips), self.win_count])
        return implicit_step(REWARD, 2, params, self.epoch)


def implicit_step(to: bytes, method: int, params: bytes, nonce: int) -> Step:
    """A message of the system actor."""
    raw = encode_message(Message(0, to, SYSTEM, nonce, 0, IMPLICIT_GAS, 0, 0, method, params))
    return Step(raw, len(raw), implicit=True)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a message. Amounts in attoFIL; `trace`: what `pack_trace` makes, `trace_parts` reads it."""

    exit_code: int
    return_: bytes
    return_codec: int | None
    gas_used: int
    penalty: int
    miner_tip: int
    base_fee_burn: int
    over_estimation_burn: int
    refund: int
    gas_refund: int
    gas_burned: int
    events_root: Cid | None
    events: Sequence[Any]
    failure: str | None
    trace: Sequence[bytes]


def pack_trace(events: Sequence[Any]) -> tuple[bytes, ...]:
    """The machine's events (`execution/src/trace.rs`) in parts, each of them CBOR.

    So a worker moves a trace of a hundred thousand events as it is, and reads it part by part.
    """
    return tuple(cbor2.dumps(events[at : at + _PART]) for at in range(0, len(events), _PART))


def trace_parts(trace: Sequence[bytes]) -> Iterator[list[Any]]:
    """The events of each part of a trace, in their order."""
    return map(cbor2.loads, trace)


@dataclass(frozen=True, slots=True)
class Run:
    """The results of all `steps` (rewards as the messages that they became), and the state after them, if asked for.

    `objects` are those that the state is made of, by multihash, if asked for.
    """

    applied: tuple[Applied, ...]
    root: Cid | None
    steps: tuple[Step, ...] = ()
    objects: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One message beside the chain, of which nothing is kept: its unsigned CBOR, whose nonce does not count (the
    sender's is taken), and the bytes that a signature adds to its length on chain.

    `skips_sender_check`: any actor may send; one that does not exist is made first. `gas_cap`: as in `Step`.
    """

    message: bytes
    signature_bytes: int
    gas_cap: int
    skips_sender_check: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call. `ran_out`: whether it, or any call that it made, ran out of gas. `nonce`: the one used."""

    exit_code: int
    return_: bytes
    gas_used: int
    failure: str | None
    ran_out: bool
    nonce: int


class Executor(Protocol):
    """Runs messages, and reads objects: those of the store, and for a while those of states that runs have made."""

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        """Apply messages to a state, one after the other. `keep_state`: the state after them stays readable; `objects`:
        what it is made of is returned too.

        Errors: NotHeld (an object or a fact of the chain is not held), Unavailable, ExecutionRefused (a message that a
        client made up uses more gas than its `gas_cap`, or more memory, or makes a longer trace than is built).
        """

    async def call(self, place: Place, call: Call) -> Outcome | None:
        """Apply one message to a state, without a trace. None: the sender is not there, and its check is not skipped.

        Errors: as of `run`.
        """

    async def get(self, cid: bytes) -> bytes:
        """An object. Errors: Missing."""

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """Objects in the order of `cids`. Errors: Missing."""
