"""Makes a chain from a seed: real headers, messages, states, receipts and events, with forks.

Made in the order that a network would: a tipset's messages are executed when a tipset is built on it, so a
header names the state and the receipts of its parents. Nothing is signed or proven; tickets, proofs and
signatures are random bytes. The same seed and the same calls give the same chain.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from blockstore.cid import Cid, cid_of
from chain.block import BlockHeader, encode_header
from chain.errors import BadRequest
from chain.eth.transaction import INVOKE_CONTRACT
from chain.ipld.dag_cbor import decode, encode
from chain.ipld.tree_nodes import Put
from chain.message import BLS, DELEGATED, Message, SignedMessage, encode_message, encode_signed_message
from chain.network import NetworkRecord
from chain.tipset import Tipset
from devnode.sim_holdings import Holdings
from devnode.sim_state import (
    POWER_LOG2,
    PROVE_COMMIT,
    Done,
    SimMessage,
    Sizes,
    State,
    StateMaker,
    Work,
    write_amt,
)

NETWORK: Final = "simnet"
NETWORK_VERSION: Final = 29
#: gas units: what a block's messages aim at, and the attoFIL a unit costs at least
_GAS_TARGET: Final = 5_000_000_000
_MIN_BASE_FEE: Final = 100
#: the blocks that an epoch brings on average on the real network
_BLOCKS: Final = 5
_GENESIS_PARENT: Final = cid_of(b"what was before the simulated genesis")


@dataclass(frozen=True, slots=True)
class SimSettings:
    """What is simulated. Rates are probabilities a step, from 0 to 1; `messages` are a block's.

    `null_rate`: an epoch without a block. `reorg_rate`: the newest 1 to `reorg_depth` tipsets give way to
    others. `late_rate`: the head is replaced by one of a block more. `base_fee` in attoFIL, times in seconds.
    `deals`: of the market; as many entries are in the verified registry. `contracts`: EVM actors, of which the first
    has as many storage slots as there are deals, and the others a few. `sectors`: of the first miner (0: eight, as the
    others have).
    `logging_calls`: the share of calls of contracts that emit a log.
    `most_miner_updates`: where it is more than `miner_updates`, an epoch has a number between the two.
    """

    seed: int = 1
    accounts: int = 150
    miners: int = 30
    miner_updates: int = 5
    most_miner_updates: int = 0
    messages: int = 8
    max_blocks: int = 4
    null_rate: float = 0.1
    reorg_rate: float = 0.05
    reorg_depth: int = 3
    late_rate: float = 0.05
    block_delay: int = 30
    genesis_time: int = 1_700_000_000
    eth_chain_id: int = 31415926
    base_fee: int = 1_000_000
    deals: int = 0
    contracts: int = 0
    sectors: int = 0
    logging_calls: float = 0.0

    def __post_init__(self) -> None:
        for name in ("null_rate", "reorg_rate", "late_rate", "logging_calls"):
            if not 0 <= getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}, not from 0 to below 1")
        for name, least in (("accounts", 3), ("miners", 1), ("max_blocks", 1), ("reorg_depth", 1), ("messages", 0)):
            if getattr(self, name) < least:
                raise BadRequest(f"{name} is {getattr(self, name)}, it must be {least} or more")

    @classmethod
    def for_size(cls, actors: int, objects: int, most_objects: int = 0, *, seed: int = 1) -> SimSettings:
        """About `actors` actors, of which a third are miners, and `objects` new objects an epoch, or up to most.

        A tenth as many deals and entries of the verified registry, a hundredth as many contracts. One
        miner has a quarter as many sectors.
        """
        miners = max(1, actors // 3)
        messages = max(1, min(100, objects // 14))
        least, most = (max(0, min(miners, round((number - 5 * messages) / 5.4))) for number in (objects, most_objects))
        return cls(
            seed=seed,
            accounts=max(3, actors - miners),
            miners=miners,
            messages=messages,
            miner_updates=least,
            most_miner_updates=most,
            deals=actors // 10,
            contracts=actors // 100,
            sectors=actors // 4,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One whole head change: reverts newest first, applies oldest first."""

    reverts: tuple[Tipset, ...]
    applies: tuple[Tipset, ...]


@dataclass(slots=True)
class _Known:
    """A tipset that more may be built on: its messages by block, the state before it, and after it once made."""

    tipset: Tipset
    before: State
    messages: dict[Cid, list[SimMessage]]
    done: Done | None = None
    fresh: dict[Cid, list[SimMessage]] = field(default_factory=dict)


class SimulatedChain:
    """Makes one head change after another. `put` gets every new object, once or (rarely) twice."""

    def __init__(self, settings: SimSettings, put: Put) -> None:
        self.settings = settings
        self._put = put
        self._random = Random(f"chain {settings.seed}")
        sizes = Sizes(
            settings.accounts,
            settings.miners,
            settings.miner_updates,
            settings.most_miner_updates,
            Holdings(settings.deals, settings.deals, settings.contracts, settings.deals, settings.sectors),
            settings.logging_calls,
        )
        self._maker = StateMaker(settings.seed, NETWORK, sizes)
        self._window = settings.reorg_depth + 2
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._canonical: deque[Tipset] = deque(maxlen=self._window)
        self.genesis = self._genesis()

    @property
    def head(self) -> Tipset:
        """The newest tipset."""
        return self._canonical[-1]

    @property
    def network(self) -> NetworkRecord:
        """What a store of this chain belongs to."""
        return NetworkRecord(
            name=NETWORK,
            genesis=self.genesis.blocks[0].cid,
            address_prefix="t",
            eth_chain_id=self.settings.eth_chain_id,
            block_delay=self.settings.block_delay,
            upgrades=((-1, NETWORK_VERSION),),
        )

    # --- head changes --------------------------------------------------------------------------------------

    def advance(self) -> Change:
        """The next head change, by the rates that are set."""
        chance = self._random.random()
        depth = min(self.settings.reorg_depth, len(self._canonical) - 1)
        if depth and chance < self.settings.reorg_rate:
            return self.reorg(self._random.randint(1, depth))
        late = self.settings.reorg_rate + self.settings.late_rate
        if depth and chance < late and len(self.head.blocks) < self.settings.max_blocks:
            return self.late_block()
        nulls = 0
        while self._random.random() < self.settings.null_rate:
            nulls += 1
        return self.extend(nulls=nulls)

    def extend(self, *, nulls: int = 0, blocks: int | None = None) -> Change:
        """One tipset more, after `nulls` null rounds, of `blocks` blocks (None: by chance)."""
        made = self._child(self.head, nulls, blocks)
        self._canonical.append(made)
        return Change((), (made,))

    def reorg(self, depth: int) -> Change:
        """The newest `depth` tipsets give way to a heavier branch, at least one tipset longer.

        Errors: BadRequest, when the chain is not that long or `depth` is beyond the setting.
        """
        if not 1 <= depth <= min(self.settings.reorg_depth, len(self._canonical) - 1):
            raise BadRequest(f"a reorg of depth {depth}: at most {self.settings.reorg_depth}, and above genesis")
        reverts = tuple(self._canonical.pop() for _ in range(depth))
        applies: list[Tipset] = []
        while len(applies) <= depth or self.weight(self.head) <= self.weight(reverts[0]):
            made = self._child(self.head, 0, None)
            applies.append(made)
            self._canonical.append(made)
        return Change(reverts, tuple(applies))

    def late_block(self) -> Change:
        """Replace the head by one with the same blocks and one more, as when a block comes late."""
        head = self._known[self.head.key]
        if self.head.height == 0:
            raise BadRequest("the genesis has one block")
        parent = self._known[self.head.parents]
        block, messages = self._block(parent, self.head.height, self._random.randbytes(96))
        tipset = Tipset.of([*self.head.blocks, block])
        self._keep(_Known(tipset, head.before, {**head.messages, block.cid: messages}))
        reverted = self._canonical.pop()
        self._canonical.append(tipset)
        return Change((reverted,), (tipset,))

    @staticmethod
    def weight(tipset: Tipset) -> int:
        """The weight of the chain up to and with a tipset. Source: Lotus `filcns/weight.go`."""
        wins = sum(block.election_proof[0] for block in tipset.blocks if block.election_proof)
        return tipset.parent_weight + (POWER_LOG2 << 8) + (POWER_LOG2 << 8) * wins // (_BLOCKS * 2)

    # --- making --------------------------------------------------------------------------------------------

    def _genesis(self) -> Tipset:
        state = self._maker.genesis(self._put)
        header = BlockHeader(
            cid=_GENESIS_PARENT,
            miner=b"\0\0",
            ticket=self._random.randbytes(32),
            election_proof=None,
            beacon_entries=((0, bytes(32)),),
            win_post=(),
            parents=(_GENESIS_PARENT,),
            parent_weight=0,
            height=0,
            parent_state_root=state.root,
            parent_message_receipts=self._maker.empty_array,
            messages=self._meta([]),
            bls_aggregate=None,
            timestamp=self.settings.genesis_time,
            block_sig=None,
            fork_signaling=0,
            parent_base_fee=self.settings.base_fee,
        )
        header = self._stored(header)
        tipset = Tipset.of([header])
        self._keep(_Known(tipset, state, {header.cid: []}))
        self._canonical.append(tipset)
        return tipset

    def _stored(self, header: BlockHeader) -> BlockHeader:
        raw = encode_header(header)
        cid = cid_of(raw)
        self._put(cid, raw)
        return replace(header, cid=cid)

    def _keep(self, known: _Known) -> None:
        self._known[known.tipset.key] = known
        while len(self._known) > 4 * self._window:
            self._known.popitem(last=False)

    def _child(self, parent: Tipset, nulls: int, blocks: int | None) -> Tipset:
        known = self._known[parent.key]
        height = parent.height + 1 + nulls
        count = blocks or self._random.randint(1, self.settings.max_blocks)
        made = [self._block(known, height, self._random.randbytes(96)) for _ in range(count)]
        tipset = Tipset.of([block for block, _ in made])
        after = self._after(known)
        self._keep(_Known(tipset, after.state, {block.cid: messages for block, messages in made}))
        return tipset

    def _after(self, known: _Known) -> Done:
        """What comes after a tipset: made when something is first built on it."""
        if known.done is None:
            tipset = known.tipset
            work = Work(
                epoch=tipset.height,
                base_fee=tipset.parent_base_fee,
                messages=_in_order(known),
                winners=[(block.miner, block.election_proof[0]) for block in tipset.blocks if block.election_proof],
            )
            known.done = self._maker.execute(self._put, Random(bytes(tipset.key)), known.before, work)
        return known.done

    def _base_fee(self, known: _Known, gas: int) -> int:
        """The next base fee. Source: Lotus `chain/store/basefee.go`."""
        tipset = known.tipset
        delta = gas // len(tipset.blocks) - _GAS_TARGET
        delta = max(-_GAS_TARGET, min(_GAS_TARGET, delta))
        return max(_MIN_BASE_FEE, tipset.parent_base_fee + tipset.parent_base_fee * delta // _GAS_TARGET // 8)

    def _block(self, parent: _Known, height: int, ticket: bytes) -> tuple[BlockHeader, list[SimMessage]]:
        done = self._after(parent)
        random = self._random
        base_fee = self._base_fee(parent, done.gas)
        messages = self._messages(parent, done.state, base_fee)
        header = BlockHeader(
            cid=_GENESIS_PARENT,
            miner=self._maker.miner_id(random.randrange(self.settings.miners)),
            ticket=ticket,
            election_proof=(random.randint(1, 3), random.randbytes(96)),
            beacon_entries=((1_000_000 + height, random.randbytes(48)),),
            win_post=((13, random.randbytes(192)),),
            parents=parent.tipset.key.cids,
            parent_weight=self.weight(parent.tipset),
            height=height,
            parent_state_root=done.state.root,
            parent_message_receipts=done.receipts,
            messages=self._meta(messages),
            bls_aggregate=(BLS, random.randbytes(96)),
            timestamp=self.settings.genesis_time + height * self.settings.block_delay,
            block_sig=(BLS, random.randbytes(96)),
            fork_signaling=0,
            parent_base_fee=base_fee,
        )
        return self._stored(header), messages

    def _meta(self, messages: Sequence[SimMessage]) -> Cid:
        roots = [
            write_amt(self._put, [one.cid for one in messages if (one.kind == BLS) is bls], version=0)
            for bls in (True, False)
        ]
        raw = encode(roots)
        cid = cid_of(raw)
        self._put(cid, raw)
        return cid

    def _messages(self, parent: _Known, state: State, base_fee: int) -> list[SimMessage]:
        """A block's messages; some are also in another block of the same tipset."""
        random = self._random
        found: list[SimMessage] = []
        taken: set[bytes] = set()
        for run in parent.fresh.values():
            # a miner picks from the same pool as the others
            if len(found) >= self.settings.messages or run[0].sender in taken:
                continue
            if random.random() < 0.2:
                found += run
                taken.add(run[0].sender)
        accounts = self.settings.accounts
        tries = 2 * self.settings.messages
        while len(found) < self.settings.messages and tries:
            tries -= 1
            number = random.randrange(accounts)
            sender = self._maker.account_id(number)
            if sender in taken:
                continue
            taken.add(sender)
            nonce = decode(state.actors.get(sender) or b"\xf6")[2]
            count = 1 if random.random() < 0.7 else 2
            run = [self._message(number, nonce + at, base_fee) for at in range(count)]
            parent.fresh.setdefault(run[0].cid, run)
            found += run
        return found

    def _message(self, number: int, nonce: int, base_fee: int) -> SimMessage:
        random = self._random
        maker = self._maker
        kind, sender = maker.account_key(number)
        if kind == DELEGATED:
            # a transaction of Ethereum's: it calls a contract, or pays an account of its own kind
            other = random.randrange(2, self.settings.accounts, 3)
            receiver, to = maker.account_id(other), maker.account_key(other)[1]
            method, params, value, gas = INVOKE_CONTRACT, b"", random.randrange(10**18), 2_000_000
        elif random.random() < 0.3:
            receiver = to = maker.miner_id(random.randrange(self.settings.miners))
            method, params, value, gas = PROVE_COMMIT, encode([random.randbytes(192)]), 0, 60_000_000
        else:
            other = random.randrange(self.settings.accounts)
            receiver, to = maker.account_id(other), maker.account_key(other)[1]
            method, params, value, gas = 0, b"", random.randrange(10**18), 2_000_000
        message = Message(
            version=0,
            to=to,
            from_=sender,
            nonce=nonce,
            value=value,
            gas_limit=gas + random.randrange(gas),
            gas_fee_cap=2 * base_fee + 100_000,
            gas_premium=random.randrange(1, 100_000),
            method=method,
            params=params,
        )
        if kind == BLS:
            raw = encode_message(message)
        else:
            raw = encode_signed_message(SignedMessage(message, (kind, random.randbytes(65))))
        cid = cid_of(raw)
        self._put(cid, raw)
        return SimMessage(cid, raw, message, kind, maker.account_id(number), receiver)


def _in_order(known: _Known) -> list[SimMessage]:
    """A tipset's messages as they are executed: block by block, BLS first, of each sender as nonces follow."""
    expected: dict[bytes, int] = {}
    found = []
    for block in known.tipset.blocks:
        messages = known.messages[block.cid]
        for one in sorted(messages, key=lambda one: one.kind != BLS):
            nonce = expected.setdefault(one.sender, one.message.nonce)
            if one.message.nonce == nonce:
                expected[one.sender] = nonce + 1
                found.append(one)
    return found
