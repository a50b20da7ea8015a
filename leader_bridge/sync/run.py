"""Fills a store: heads, headers, messages with receipts and events, the state at a pivot, indices; then the head.

The pivot is the head that most sources have when the filling begins. While it is filled, the chain goes on; so what
came meanwhile is filled in the same way, again and again, until little comes in between. Then the head is published,
and a bridge goes on from there. Until then a new store carries the mark of an unfinished import: no follower serves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson

from blockstore.cid import Cid
from blockstore.errors import StoreError, Unfinished, WrongNetwork
from blockstore.generations import objects_of
from blockstore.store import META, TIPSETS, Batch, Store
from chain.errors import BadRequest
from chain.network import NetworkRecord, load_network, network_of, save_network
from chain.tipset import TipsetKey
from leader_bridge.follow.lease import hold_lease
from leader_bridge.follow.network import check_network
from leader_bridge.imports.import_state import MARK, PROGRESS
from leader_bridge.imports.index import Indexer, is_heavier, publish_head
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.retention.policy import ARCHIVE, Policy
from leader_bridge.store.tipset_writer import MirrorScope, NotAvailableYet, TipsetWriter
from leader_bridge.store.unfinished_copy import refuse_unfinished_copy
from leader_bridge.sync.checkpoint import (
    CONTENTS_STAGE,
    HEADERS_STAGE,
    HEADS_STAGE,
    INDEX_STAGE,
    STATE_STAGE,
    SYNC,
    Checkpoint,
    load_checkpoint,
)
from leader_bridge.sync.contents import ContentStage
from leader_bridge.sync.gather_most import gather_most
from leader_bridge.sync.headers import ChainEnds, HeaderStage, held_tipset
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.sources.node import NodeSource
from leader_bridge.sync.sources.source import NotHeldThere, SourceBusy, SourceError, SourceRefuses
from leader_bridge.sync.stage_progress import StageProgress
from leader_bridge.sync.states import close_states
from leader_bridge.sync.storing import StoringFetcher, prompt_mirror
from leader_bridge.sync.votes import Chosen, NoMajority, choose_head, choose_network
from rpc.server.ranges.wire import Offer

log = logging.getLogger(__name__)

#: a round that brings fewer tipsets is the last one
_FEW: Final = 3
_MOST_ROUNDS: Final = 1000
#: rounds after which a state that no source holds is given up
_MOST_WITHOUT_STATE: Final = 3
#: epochs below a head that may be on another fork
FINALITY: Final = 900
#: seconds between two questions for heads that have no majority
_ASK_AGAIN_SECONDS: Final = 5.0
#: seconds between two lines about the same trouble
_SAY_SECONDS: Final = 60.0
_GROUP: Final = 256


class SyncFailed(StoreError):
    """The sources cannot fill the store."""


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """`from_epoch`: the lowest epoch wanted (None: all that the sources hold).

    `with_state`: states too, of the head and of `states` epochs below it. `policy`: messages and receipts that it
    would drop are not asked for. `majority_seconds`: how long to wait for one.
    """

    from_epoch: int | None = None
    with_state: bool = True
    states: int = FINALITY
    actor_code: bool = False
    policy: Policy = ARCHIVE
    majority_seconds: float = 300.0
    lease_seconds: float = 5.0


@dataclass(slots=True)
class SyncReport:
    """What a filling did, earlier runs not included. `height`: the published head's epoch."""

    rounds: int = 0
    tipsets: int = 0
    height: int = -1
    published: bool = False
    network: NetworkRecord | None = None


async def sync_store(
    store: Store, pool: Pool, options: SyncOptions | None = None, progress: Reporter | None = None
) -> SyncReport:
    """Fill `store`, which is new, behind, or holds an unfinished filling. Run within `pool.running()`.

    Errors: Unfinished (it holds an import or a copy that has not ended), WrongNetwork, SyncFailed (no majority, or a
    state that no source holds), StoreError, BadObject.
    """
    await refuse_unfinished_copy(store)
    if await store.row(META, b"", PROGRESS) is not None:
        raise Unfinished(f"{store.url} holds an import that has not ended: run the same import again")
    options = options or SyncOptions()
    async with hold_lease(store, "sync", options.lease_seconds) as term:
        return await _Sync(store, pool, options, StageProgress(progress or Silent()), term).run()


class _Sync:
    def __init__(self, store: Store, pool: Pool, options: SyncOptions, progress: StageProgress, term: int) -> None:
        self._store = store
        self._pool = pool
        self._options = options
        self._progress = progress
        self._term = term
        self._report = SyncReport()
        self._offers: dict[str, Offer] = {}
        self._network: NetworkRecord | None = None

    async def run(self) -> SyncReport:
        point = await self._begin()
        is_resumed = point.stage != HEADS_STAGE
        without_state = 0
        for _ in range(_MOST_ROUNDS):
            chosen = await self._choose()
            if is_resumed:
                self._progress.say(f"an earlier run stopped here: going on with {point.stage}, head {point.height}")
            else:
                if point.round and not without_state and chosen.height - point.height <= _FEW:
                    break
                await self._aim_at(point, chosen)
            is_resumed = False
            has_state = await self._fill(point)
            self._report.rounds += 1
            without_state = 0 if has_state else without_state + 1
            if without_state >= _MOST_WITHOUT_STATE:
                raise SyncFailed(f"no source holds the state of epoch {point.height}: name one that does")
        await self._publish(point)
        return self._report

    async def _begin(self) -> Checkpoint:
        point = await load_checkpoint(self._store)
        if point is not None:
            return point
        point = Checkpoint()
        batch = Batch()
        head = await self._store.head()
        if head is None:
            batch.put(META, b"", MARK, orjson.dumps({"sync": sorted(self._pool.standings)}))
        else:
            # what is held stays; what is above it is filled
            point.round, point.height, point.head = 1, head.head.height, head.head.key.hex()
            point.floor = max(0, head.head.height - FINALITY)
            point.pivot = head.head.height
        point.put(batch)
        await self._store.write(batch)
        return point

    # --- heads ---------------------------------------------------------------------------------------

    async def _choose(self) -> Chosen:
        """The head of most sources. Errors: SyncFailed, WrongNetwork."""
        self._progress.phase(HEADS_STAGE, len(self._pool.standings), "sources")
        give_up_at = asyncio.get_running_loop().time() + self._options.majority_seconds
        said, say_again_at = "", 0.0
        while True:
            await self._ask_for_offers()
            self._progress.at(len(self._offers))
            try:
                await self._check_network()
                chains = {name: offer.chain for name, offer in self._offers.items() if self._votes(name)}
                chosen = choose_head(chains)
            except NoMajority as error:
                now = asyncio.get_running_loop().time()
                if not self._offers:
                    # the network is cut: nobody disagrees
                    give_up_at = now + self._options.majority_seconds
                if now >= give_up_at:
                    raise SyncFailed(f"{error}; nothing is filled from sources that do not agree") from None
                if str(error) != said or now >= say_again_at:
                    said, say_again_at = str(error), now + _SAY_SECONDS
                    self._progress.say(f"{error}; asking again")
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                continue
            if chosen.differ:
                log.warning(
                    "of epoch %d another tipset is held by: %s", chosen.height, ", ".join(sorted(chosen.differ))
                )
            return chosen

    def _votes(self, name: str) -> bool:
        one = self._pool.standings[name]
        return one.source.votes and not one.refusal and not one.bad

    async def _ask_for_offers(self) -> None:
        # one that has not answered the last question yet has no vote this time
        names = [name for name, one in self._pool.standings.items() if not one.refusal and not self._pool.is_busy(name)]
        self._offers = await gather_most({name: self._offer(name) for name in names})
        self._pool.keep_limits()
        if not [name for name in self._offers if not self._pool.standings[name].refusal] and not any(
            not one.refusal for one in self._pool.standings.values()
        ):
            raise SyncFailed("; ".join(one.refusal for one in self._pool.standings.values()))

    async def _offer(self, name: str) -> Offer | None:
        try:
            return await self._pool.offer(name)
        except SourceRefuses as error:
            self._pool.refuse(name, str(error))
        except NotHeldThere as error:
            self._pool.refuse(name, f"{error} (does its follower serve ranges?)")
        except SourceBusy as error:
            log.debug("%s does not tell its head: %s", name, error)
        except SourceError as error:
            log.warning("%s does not tell its head: %s", name, error)
        return None

    async def _check_network(self) -> None:
        """Take the network that most sources are of, or that the store is of; others are no sources.

        Errors: NoMajority (no source tells it, or they differ), WrongNetwork (no source is of the store's).
        """
        record = self._network or await load_network(self._store)
        told: dict[str, NetworkRecord] = {}
        for name, offer in self._offers.items():
            if offer.network:
                try:
                    told[name] = network_of(offer.network)
                except BadRequest as error:
                    self._pool.refuse(name, f"{name}: {error}")
        if record is None and told:
            record = choose_network(told)
        if record is None:
            record = await self._network_of_node()
        for name, one in told.items():
            if one.genesis != record.genesis:
                self._pool.refuse(
                    name, f"{name} is of network {one.name!r}, genesis {one.genesis}, not {record.name!r}"
                )
        self._offers = {name: offer for name, offer in self._offers.items() if not self._pool.standings[name].refusal}
        if not any(not one.refusal for one in self._pool.standings.values()):
            raise WrongNetwork(f"no source is of the store's network, {record.name!r}")
        if self._network is None:
            batch = Batch()
            save_network(batch, record)
            await self._store.write(batch)
        self._network = self._report.network = record

    async def _network_of_node(self) -> NetworkRecord:
        """The network of the first full node that tells it. Errors: NoMajority (none does)."""
        from rpc.node_errors import NodeError

        for name in self._offers:
            source = self._pool.standings[name].source
            if isinstance(source, NodeSource):
                try:
                    return await check_network(self._store, source.client, None)
                except NodeError as error:
                    log.warning("%s does not tell its network: %s", name, error)
        raise NoMajority("no source tells its network")

    async def _aim_at(self, point: Checkpoint, chosen: Chosen) -> None:
        """The next head to fill up to; what is below the last one is held already, but for forks."""
        if point.round:
            point.floor = max(0, point.height - FINALITY, point.floor)
            point.contents_done = min(point.contents_done, point.floor - 1)
        else:
            # the states above it are wanted too: they differ little from the head's
            point.pivot = max(chosen.height - self._options.states, self._lowest("state")) - 1
            point.floor = self._lowest("headers")
            if point.floor:
                # the lowest one that is held proves that nothing is left out above it
                point.floor += 1
            if self._options.from_epoch is not None:
                point.floor = max(point.floor, self._options.from_epoch)
        point.head, point.height = chosen.key.hex(), chosen.height
        point.next_key, point.above = "", -1
        point.round += 1
        point.stage = HEADERS_STAGE
        await point.save(self._store)

    def _lowest(self, what: str) -> int:
        """The lowest epoch from which on some source holds something; 0 where none tells."""
        return min((offer.held[what] for offer in self._offers.values() if what in offer.held), default=0)

    # --- stages --------------------------------------------------------------------------------------

    async def _fill(self, point: Checkpoint) -> bool:
        """Run the stages for one head; whether its state is held."""
        offered = {name: offer.held["headers"] for name, offer in self._offers.items() if "headers" in offer.held}
        try:
            await HeaderStage(self._store, self._pool, point, self._progress, offered).run()
        except ChainEnds as error:
            raise SyncFailed(f"{error}; the same command goes on when one gives them") from None
        await self._enter(point, CONTENTS_STAGE)
        policy = self._options.policy
        lowest = policy.lowest_messages(point.height)
        low_messages, low_receipts = max(lowest, self._lowest("messages")), max(lowest, self._lowest("receipts"))
        with KeySpillFile() as spool:
            await self._walk_down(point, spool, max(point.contents_done, min(low_messages, low_receipts) - 1))
            await ContentStage(
                self._store,
                self._pool,
                point,
                self._progress,
                spool,
                low_messages=low_messages,
                low_receipts=low_receipts,
                keeps_messages=policy.messages is None,
            ).run()
        await self._enter(point, STATE_STAGE)
        has_state = not self._options.with_state or await self._states(point)
        if has_state:
            await self._enter(point, INDEX_STAGE)
            await self._index(point)
            await self._enter(point, HEADS_STAGE)
        return has_state

    async def _enter(self, point: Checkpoint, stage: str) -> None:
        point.stage = stage
        await point.save(self._store)

    async def _walk_down(self, point: Checkpoint, spool: KeySpillFile, above: int) -> None:
        """Write the keys of the held tipsets from the head down, of those above an epoch."""
        key = TipsetKey(bytes.fromhex(point.head))
        while (tipset := await held_tipset(self._store, key)) is not None and tipset.height > above:
            spool.append(tipset.key)
            if tipset.height <= point.floor:
                break
            key = tipset.parents
            if spool.count % 1000 == 0:
                await asyncio.sleep(0)

    async def _states(self, point: Checkpoint) -> bool:
        """Get the head's state, then those of the tipsets between it and the pivot; whether the head's is held."""
        head = await held_tipset(self._store, TipsetKey(bytes.fromhex(point.head)))
        assert head is not None
        roots: list[Cid] = [head.parent_state_root]
        code = self._options.actor_code
        failed = await close_states(self._store, self._pool, roots, self._progress, actor_code=code)
        if head.parent_state_root in failed:
            return False
        with KeySpillFile() as spool:
            await self._walk_down(point, spool, point.pivot)
            keys = spool.backwards()
            while group := list(islice(keys, _GROUP)):
                tipsets = [await held_tipset(self._store, key) for key in group]
                roots = [tipset.parent_state_root for tipset in tipsets if tipset is not None]
                failed = await close_states(self._store, self._pool, roots, self._progress, actor_code=code)
                if failed:
                    log.warning("of %d states below epoch %d no source holds all", len(failed), point.height)
        await self._genesis()
        return True

    async def _genesis(self) -> None:
        """Store the genesis with its state, which every chain is asked for, where a source holds it."""
        if self._network is None:
            return
        mirror = prompt_mirror(self._store, StoringFetcher(self._pool, objects_of(self._store)))
        writer = TipsetWriter(self._store, mirror, late_block_retry_delays=())
        try:
            (genesis,) = await writer.tipsets([TipsetKey.of([self._network.genesis])])
            if await writer.row(genesis.key) is None:
                await writer.write_partial(genesis)
            held = await writer.mirror([genesis], MirrorScope(), retries_missing=False)
            await writer.add_flags(genesis.key, held[0])
        except NotAvailableYet as error:
            log.warning("the genesis is not held: %s", error)

    async def _index(self, point: Checkpoint) -> None:
        """Write the rows of the tipsets above the highest one that has them."""
        assert self._network is not None
        head = TipsetKey(bytes.fromhex(point.head))
        with KeySpillFile() as spool:
            key = head
            while (tipset := await held_tipset(self._store, key)) is not None:
                if tipset.height and await self._store.row(TIPSETS, tipset.key.cid, b"") is not None:
                    break
                spool.append(tipset.key)
                if tipset.height <= point.floor:
                    break
                key = tipset.parents
            indexer = Indexer(
                self._store,
                self._network,
                actor_code=self._options.actor_code,
                will_publish=await is_heavier(self._store, head),
            )
            self._progress.phase("tipsets", spool.count, "tipsets")
            keys = spool.backwards()
            done = 0
            while group := list(islice(keys, _GROUP)):
                batch = Batch()
                await indexer.index(batch, group)
                await self._store.write(batch)
                done += len(group)
                self._report.tipsets += len(group)
                self._progress.at(done)

    async def _publish(self, point: Checkpoint) -> None:
        self._report.published = await publish_head(self._store, TipsetKey(bytes.fromhex(point.head)), self._term)
        self._report.height = point.height
        batch = Batch()
        batch.delete(META, b"", SYNC)
        batch.delete(META, b"", MARK)
        await self._store.write(batch)


def describe_sources(pool: Pool) -> Sequence[str]:
    """A line a source: what it gave, and how it stands."""
    lines = []
    for name, one in pool.standings.items():
        wait = pool.cooldown_seconds(name)
        word = one.refusal or (f"left alone for {wait:.0f} s" if wait >= 1 else "in use")
        lines.append(
            f"{name}: {one.objects:,} objects, {one.received_bytes / 1e6:,.1f} MB, {one.requests:,} requests, "
            f"{one.bad} bad, {word}"
        )
    return lines
