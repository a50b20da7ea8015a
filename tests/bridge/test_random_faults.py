"""Random faults of three nodes, and what the bridge publishes meanwhile: head and finality never go back.

A chain grows by a tipset a second. Its nodes die, fall behind, fork (some deeper than what is final), lie about F3's
certificate, fall silent and are set back; the bridge is killed, and its store's log is restored from a backup. All on a
clock that jumps.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from blockstore.memory import MemoryStore
from blockstore.store import META, Batch, HeadEntry
from chain.tipset import Tipset, TipsetKey
from leader_bridge.bridge import Bridge
from rpc.client.node_info import parse_node_info
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode, certificate_of
from tests.support.bridge.running import quick
from tests.support.virtual_time import run_virtual

#: tipsets behind the chain's head that F3 has finalized
F3_LAG = 6
#: the longest that the bridge may take to the chain's head when every fault is over, seconds
RECOVERY_SECONDS = 120


@dataclass
class Mirrored:
    """One node and what it is made to do. `until`: the tick at which its fault ends."""

    node: TestNode
    fault: str = ""
    until: int = 0
    tip: Tipset | None = None
    certificate: Callable[[], Any] | None = None

    async def go_to(self, key: TipsetKey) -> None:
        if self.node.head != key:
            await self.node.go_to(key)


@dataclass
class Storm:
    """The chain, three nodes, a bridge over a store, and the judge of what it publishes."""

    seed: int
    faults: int
    store: MemoryStore = field(default_factory=MemoryStore)
    happened: Counter[str] = field(default_factory=Counter)
    tick: int = 0
    judged: int = 0
    head: bytes = b""
    final: tuple[int, bytes] = (-1, b"")

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.chain = SmallChain(self.seed)
        self.tips = self.chain.line(self.chain.genesis, 12)
        #: (log length, META row of what is final) at times: what a backup holds
        self.backups: list[tuple[list[HeadEntry], bytes | None]] = []
        self.kinds: dict[str, Callable[[Mirrored], Any]] = {
            "dies": self.dies,
            "falls behind": self.falls_behind,
            "forks": self.forks,
            "forks deep": self.forks_deep,
            "lies about F3": self.lies_about_f3,
            "falls silent": self.falls_silent,
            "drops its connections": self.drops,
            "bridge is killed": self.bridge_is_killed,
            "an old log is restored": self.old_log_is_restored,
        }

    # --- faults ------------------------------------------------------------------------------------

    async def dies(self, one: Mirrored) -> None:
        await one.node.stop()

    async def falls_behind(self, one: Mirrored) -> None:
        await self.show(one, self.tips[-1 - self.rng.randint(1, 10)])

    async def forks(self, one: Mirrored) -> None:
        """A reorg above what is final."""
        base = self.tips[-1 - self.rng.randint(1, F3_LAG - 2)]
        await self.show(one, self.chain.line(base, self.rng.randint(1, 8))[-1])

    async def forks_deep(self, one: Mirrored) -> None:
        """A chain that leaves ours below what is final, often a heavier one."""
        base = self.tips[-1 - self.rng.randint(F3_LAG + 3, len(self.tips) - 1)]
        await self.show(one, self.chain.line(base, self.rng.randint(5, 30))[-1])

    async def lies_about_f3(self, one: Mirrored) -> None:
        tip = self.rng.choice(self.tips)
        fork = self.chain.extend(self.tips[-1 - self.rng.randint(3, 10)])
        lies: list[Callable[[], Any]] = [
            lambda: certificate_of(tip, tip.height),
            lambda: certificate_of(fork, 10**9 + self.tick),
            lambda: {"GPBFTInstance": 5, "ECChain": [{"Epoch": 10**9, "Key": "AAAA"}]},
            lambda: {"GPBFTInstance": 10**9, "ECChain": []},
            lambda: None,
        ]
        one.certificate = self.rng.choice(lies)

    async def falls_silent(self, one: Mirrored) -> None:
        one.node.faults.is_mute = True

    async def drops(self, one: Mirrored) -> None:
        await (one.node.cut if self.rng.random() < 0.5 else one.node.close_channels)()

    async def bridge_is_killed(self, _: Mirrored) -> None:
        await self.stop_bridge()
        self.start_bridge()

    async def old_log_is_restored(self, _: Mirrored) -> None:
        await self.stop_bridge()
        heads, final = self.rng.choice(self.backups)
        self.store._heads = list(heads)
        batch = Batch()
        if final is not None:
            batch.put(META, b"", b"final_tipset", final)
        else:
            batch.delete(META, b"", b"final_tipset")
        await self.store.write(batch)
        self.judged, self.head, self.final = len(heads), heads[-1].head.key, (-1, b"")
        self.start_bridge()

    # --- time --------------------------------------------------------------------------------------

    async def show(self, one: Mirrored, tip: Tipset) -> None:
        one.tip = tip
        if one.fault != "dies":
            await one.go_to(tip.key)

    async def heal(self, one: Mirrored) -> None:
        if one.fault == "dies":
            await one.node.start()
        one.fault, one.tip, one.certificate = "", None, None
        one.node.faults.is_mute = False
        await one.go_to(self.tips[-1].key)

    def start_bridge(self) -> None:
        settings = quick(
            state="lazy",
            lagging_node_grace_seconds=8.0,
            idle_probe_seconds=4.0,
            probe_interval_seconds=2.0,
            refused_head_cooldown_seconds=3.0,
            node_timeout_seconds=2.0,
            missing_object_timeout_seconds=4.0,
        )
        nodes = parse_node_info(",".join(one.node.url for one in self.nodes))
        self.bridge = Bridge(self.store, nodes, settings)
        self.running = asyncio.create_task(self.bridge.run())

    async def stop_bridge(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.judge()

    async def run(self) -> None:
        made = [TestNode(self.chain.objects, self.chain.genesis.key, self.tips[-1].key) for _ in range(3)]
        self.nodes = [Mirrored(await node.start()) for node in made]
        self.start_bridge()
        while sum(self.happened.values()) < self.faults:
            await self.second()
            if len(self.store._heads) < 5:
                continue
            for one in self.nodes:
                if one.fault and self.tick >= one.until:
                    await self.heal(one)
                elif not one.fault and self.rng.random() < 0.7:
                    one.fault = self.rng.choice(list(self.kinds))
                    one.until = self.tick + self.rng.randint(1, 12)
                    self.happened[one.fault] += 1
                    await self.kinds[one.fault](one)
        for one in self.nodes:
            await self.heal(one)
        over = self.tick
        while not self.store._heads or self.store._heads[-1].head.key != self.tips[-1].key:
            await self.second()
            assert self.tick - over < RECOVERY_SECONDS, "the bridge does not come back to the chain's head"
            assert not self.running.done() or self.running.result()
        await self.stop_bridge()
        for one in self.nodes:
            await one.node.stop()

    async def second(self) -> None:
        """A second: the chain grows, and the nodes that are well show it; then what was published is judged."""
        self.tick += 1
        self.tips.append(self.chain.extend(self.tips[-1], nulls=self.rng.choice([0, 0, 0, 1])))
        final = self.tips[-1 - F3_LAG]
        for one in self.nodes:
            one.node.certificate = one.certificate() if one.certificate else certificate_of(final, final.height)
            if one.tip is None and one.fault != "dies":
                await one.go_to(self.tips[-1].key)
            elif one.tip is not None and one.fault != "dies" and self.rng.random() < 0.5:
                # a node on a fork goes on there; one that is behind catches up a little
                await self.show(one, self.next_of(one.tip))
        await asyncio.sleep(1)
        await self.judge()

    def next_of(self, tip: Tipset) -> Tipset:
        for at, other in enumerate(self.tips[:-1]):
            if other.key == tip.key:
                return self.tips[at + 1]
        return self.chain.extend(tip)

    # --- judging -----------------------------------------------------------------------------------

    async def judge(self) -> None:
        """Look at every new entry of the log, then at what the bridge holds for final. Errors: AssertionError."""
        for entry in self.store._heads[self.judged :]:
            at = self.head
            assert entry.applies, f"entry {entry.seq} only goes back"
            for ref in entry.reverts:
                assert ref.key == at
                at = self.chain.tipsets[ref.key].parents
            if self.head:
                assert self.chain.tipsets[at].height >= self.final[0], f"entry {entry.seq} reverts what is final"
            for ref in entry.applies:
                assert not at or self.chain.tipsets[ref.key].parents == at
                at = ref.key
            assert at == entry.head.key
            self.head = entry.head.key
            self.judged += 1
        value = await self.store.row(META, b"", b"final_tipset")
        if value is not None:
            epoch, key = orjson.loads(value)
            assert epoch >= self.final[0], "finality went back"
            self.final = (epoch, bytes.fromhex(key))
            at = self.head
            while self.chain.tipsets[at].height > epoch:
                at = self.chain.tipsets[at].parents
            assert at == self.final[1], "what is final is not on the published chain"
        if self.store._heads and (self.tick % 20 == 0 or not self.backups):
            self.backups = [*self.backups[-5:], (list(self.store._heads), value)]


def weather(seed: int, faults: int) -> Storm:
    storm = Storm(seed, faults)
    run_virtual(storm.run())
    return storm


@pytest.mark.parametrize("seed", range(10))
def test_head_and_finality_never_go_back_in_a_hundred_random_faults(seed: int) -> None:
    storm = weather(seed, 100)
    assert sum(storm.happened.values()) >= 100
    assert len(storm.happened) == len(storm.kinds), f"some fault never came: {storm.happened}"
    assert storm.final[0] > 0 and TipsetKey(storm.final[1])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_head_and_finality_never_go_back_in_a_thousand_random_faults(seed: int) -> None:
    weather(seed, 1000)
