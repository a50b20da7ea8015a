"""A whole fleet of processes over a real shared store behind a real HAProxy, and clients that judge every answer.

A played node, two bridges (one leads, one stands by), followers with clocks that can be set wrong, HAProxy with the
configuration that `follower loadbalancer haproxy --watch` writes. The clients know the recorded chain: what an answer
must be is told by the head that its header names.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from blockstore.cassandra.store import CassandraStore
from blockstore.cid import parse
from chain.tipset import Tipset, TipsetKey
from devnode.recorded_chain import RecordedChain
from tests.fleet.skewed import Skew
from tests.support.paths import ROOT
from tests.support.proxies import Proxy, free_port
from tests.support.recorded import recorded

#: the reward actor: its state changes with each tipset
ACTOR = "f02"
LEASE = 2.0
QUESTIONS: tuple[tuple[str, list[object]], ...] = (
    ("Filecoin.ChainHead", []),
    ("eth_blockNumber", []),
    ("eth_getBlockByNumber", ["latest", False]),
    ("Filecoin.StateGetActor", [ACTOR, None]),
)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("FOLLOWER_", "FULLNODE_"))}


class Process:
    """One command of ours in a process of its own, its clock set by `skew`."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.name = name
        self.skew = Skew(folder / f"{name}.skew")
        self._log = (folder / f"{name}.log").open("wb+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.skewed", str(self.skew.file), *arguments],
            cwd=ROOT, env=_environment(), stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self) -> None:
        """As with -9."""
        self.process.kill()
        self.process.wait()

    async def says(self, word: str, seconds: float = 90) -> None:
        """Wait until its log holds `word`."""
        async with asyncio.timeout(seconds):
            while word not in self.log():
                assert self.process.poll() is None, self.log()[-2000:]
                await asyncio.sleep(0.05)

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wake_ups(self) -> int:
        """How often its event loop has waited for something."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()


class Truth:
    """The recorded chain: every tipset that was ever a head, by the CID of its key."""

    def __init__(self, chain: RecordedChain) -> None:
        self.tipsets: dict[str, Tipset] = {}
        for tipset in (chain.first, *(one for change in chain.changes for one in change.applies)):
            self.tipsets[str(tipset.key.cid)] = tipset
        self.by_key = {tipset.key: tipset for tipset in self.tipsets.values()}
        self.actors: dict[str, bytes] = {}

    def fault(self, question: int, head: str, result: object) -> str:
        """What is wrong with an answer whose header names `head`; "" for nothing."""
        tipset = self.tipsets.get(head)
        if tipset is None:
            return f"a head that never was: {head}"
        if question == 0:
            assert isinstance(result, dict)
            key = TipsetKey.of([parse(cid["/"]) for cid in result["Cids"]])
            return "" if (key, result["Height"]) == (tipset.key, tipset.height) else "another head's tipset"
        if question == 3:
            # the first answer for a head is compared with the node's when all are in
            body = orjson.dumps(result)
            return "" if self.actors.setdefault(head, body) == body else "two answers for one head"
        parent = self.by_key.get(tipset.parents)
        if parent is None:
            return ""
        if question == 1:
            return "" if result == hex(parent.height) else "another head's parent"
        assert isinstance(result, dict)
        wanted = (hex(parent.height), "0x" + parent.key.block_hash.hex())
        return "" if (result["number"], result["hash"]) == wanted else "another head's block"


@dataclass
class Report:
    """What the clients saw."""

    answered: int = 0
    heads: set[int] = field(default_factory=set)
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    back: list[tuple[int, int]] = field(default_factory=list)
    mixed: collections.Counter[str] = field(default_factory=collections.Counter)
    waits: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """In a line, with the latencies of one answer in ten."""
        waits = sorted(self.waits) or [0.0]
        return (
            f"{self.answered} answers, {len(self.heads)} heads, {sum(self.failed.values())} failed, "
            f"{len(self.back)} back-steps, {sum(self.mixed.values())} mixed; latency p50 "
            f"{waits[len(waits) // 2] * 1000:.1f} ms, p99 {waits[len(waits) * 99 // 100] * 1000:.0f} ms, "
            f"most {waits[-1] * 1000:.0f} ms"
        )


class Clients:
    """`count` clients, each asking as soon as it was answered, over a connection that is kept.

    `rate`: how many requests a second all of them send at most, evenly; 0 for as many as are answered.
    All are in this process, so that "after an answer was received" holds between them too: a request sent after any
    of them received a head must not be answered from an older one.
    """

    def __init__(self, port: int, truth: Truth, count: int = 8, *, rate: float = 0.0) -> None:
        self._port = port
        self._truth = truth
        self._count = count
        self._pause = count / rate if rate else 0.0
        self._newest = 0
        self._stopping = False
        self.report = Report()
        bodies = [
            orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params}) for name, params in QUESTIONS
        ]
        head = "POST /rpc/v1 HTTP/1.1\r\nHost: fleet\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._requests = [(head % len(body)).encode() + body for body in bodies]

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Clients]:
        """They ask meanwhile."""
        tasks = [asyncio.create_task(self._ask(number)) for number in range(self._count)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)

    async def until(self, answered: int) -> None:
        """Wait until so many requests are answered in all."""
        while self.report.answered < answered:
            await asyncio.sleep(0.05)

    async def more(self, requests: int) -> None:
        """Wait until so many more are."""
        await self.until(self.report.answered + requests)

    async def _ask(self, number: int) -> None:
        loop, report = asyncio.get_running_loop(), self.report
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        due = loop.time() + self._pause * number / self._count
        while not self._stopping:
            if self._pause:
                due = max(due + self._pause, loop.time())
                await asyncio.sleep(due - loop.time())
            number += 1
            question = number % len(QUESTIONS)
            sent, newest = loop.time(), self._newest
            try:
                writer.write(self._requests[question])
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
            except (OSError, EOFError, ValueError) as error:
                report.failed[repr(error)] += 1
                report.answered += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                continue
            report.answered += 1
            if number % 10 == 0:
                report.waits.append(loop.time() - sent)
            self._judge(question, newest, head, body)
            if b"connection: close" in head:  # as HAProxy says while it reads its configuration again
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.close()

    def _judge(self, question: int, newest: int, head: bytes, body: bytes) -> None:
        report = self.report
        answer = orjson.loads(body) if body[:1] == b"{" else {}
        named = head.partition(b"x-filecoin-head: ")[2].partition(b"\r\n")[0].decode().split(",")
        if b" 200 " not in head[:20] or "result" not in answer or len(named) != 3:
            report.failed[f"{QUESTIONS[question][0]}: {head[:15]!r} {body[:300]!r}"] += 1
            return
        seq = int(named[0])
        if seq < newest:
            report.back.append((newest, seq))
        self._newest = max(self._newest, seq)
        report.heads.add(seq)
        if fault := self._truth.fault(question, named[2], answer["result"]):
            report.mixed[f"{QUESTIONS[question][0]}: {fault}"] += 1


class Fleet:
    """The processes. `async with Fleet(...)` starts them and waits until all serve."""

    def __init__(
        self, folder: Path, url: str, *, followers: int = 3, replication: int = 1, interval: float = 0.3,
        delta_ms: int = 500, epsilon_ms: int = 50, ready_lag: int = 0,
    ) -> None:  # fmt: skip
        #: epochs; followers compare their heads with the node's where it is given
        self.ready_lag = ready_lag
        self.folder = folder
        self.url = url
        self.count = followers
        self.interval = interval
        self.epsilon_ms = epsilon_ms
        self._shared = [
            "--store", url, "--replication", str(replication),
            "--delta-ms", str(delta_ms), "--epsilon-ms", str(epsilon_ms),
        ]  # fmt: skip
        self.followers: list[Process] = []
        self.ports: list[int] = []
        self.bridges: list[Process] = []
        self.others: list[Process] = []
        self.proxy = Proxy("haproxy")

    async def __aenter__(self) -> Fleet:
        try:
            await self._start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _start(self) -> None:
        car = recorded("devnet/chain.car.zst")
        schema = Process(self.folder, "schema", "schema", *self._shared[:4], "--apply")
        assert await asyncio.to_thread(schema.process.wait, 120) == 0, schema.log()
        schema.close()
        self.truth = Truth(await RecordedChain.load(car.parent))
        self.node_port = free_port()
        listen = f"127.0.0.1:{self.node_port}"
        node = Process(
            self.folder, "node", "replay", str(car.parent), "--listen", listen, "--interval", str(self.interval)
        )
        self.others.append(node)
        await node.says("replaying")
        self.bridge()
        for _ in range(self.count):
            self.follower()
        for port in self.ports:
            await self.ready(port)
        self.bridge()
        await self.bridges[1].says("standing by")
        watch = Process(
            self.folder, "balancer", "loadbalancer", "haproxy", *self._shared[:2], "--bind",
            f"127.0.0.1:{self.proxy.port}", "--output", str(self.proxy.file), "--watch", "--interval", "0.5",
            "--master-socket", str(self.proxy.folder / "master.sock"),
        )  # fmt: skip
        self.others.append(watch)
        await self.named(self.ports)
        self.proxy.start()

    def bridge(self) -> Process:
        """One bridge more: the first leads, others stand by."""
        made = Process(
            self.folder, f"bridge-{len(self.bridges)}", "bridge", "--node", f"http://127.0.0.1:{self.node_port}",
            *self._shared, "--network-file", str(recorded("devnet/network.json")), "--backfill-epochs", "20",
            "--lease-seconds", str(LEASE), "--log-level", "info",
        )  # fmt: skip
        self.bridges.append(made)
        return made

    def follower(self) -> Process:
        """One follower more."""
        port = free_port()
        node = f"http://127.0.0.1:{self.node_port}"
        followed = ["--node", node, "--ready-lag-epochs", str(self.ready_lag)] if self.ready_lag else []
        made = Process(
            self.folder, f"follower-{port}", "serve", "--listen", f"127.0.0.1:{port}", *self._shared,
            "--renew-seconds", "1", "--ready-head-age-epochs", "0", *followed,
        )  # fmt: skip
        self.followers.append(made)
        self.ports.append(port)
        return made

    async def named(self, ports: Sequence[int], *, gone: int = 0) -> None:
        """Wait until the balancer's configuration names these followers, and not the one that is `gone`."""
        async with asyncio.timeout(60):
            while True:
                text = self.proxy.file.read_text() if self.proxy.file.exists() else ""
                if all(f" 127.0.0.1:{port}" in text for port in ports) and f":{gone}\n" not in text:
                    return
                await asyncio.sleep(0.05)

    async def readiness(self, port: int) -> tuple[int, str]:
        """Status and text of a follower's `/readyz?verbose`."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz?verbose HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")
            text = (await reader.read()).decode(errors="replace")
            writer.close()
            return int(text.split(" ", 2)[1]), text
        except (OSError, IndexError, ValueError):
            return 0, ""

    async def ready(self, port: int, wanted: bool = True) -> str:
        """Wait until a follower says that it is ready (or not ready); what it says."""
        async with asyncio.timeout(120):
            while True:
                for process in self.followers:
                    assert process.process.poll() in (None, -9), process.log()[-2000:]
                status, text = await self.readiness(port)
                if status and (status == 200) == wanted:
                    return text
                await asyncio.sleep(0.1)

    async def check_actors(self) -> int:
        """The actor that was answered for each head against what the node says of that head; how many."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.node_port)
        for head, body in self.truth.actors.items():
            key = [{"/": str(cid)} for cid in self.truth.tipsets[head].key.cids]
            call = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": QUESTIONS[3][0], "params": [ACTOR, key]})
            writer.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\n\r\n%s" % (len(call), call))
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            told = orjson.loads(await reader.readexactly(size))
            assert orjson.dumps(told["result"]) == body, f"at {head} the node says otherwise"
        writer.close()
        return len(self.truth.actors)

    async def first_head_of_another_term(self) -> int:
        """Wait until another bridge than the one that leads has published; the number of its first entry."""
        store = await CassandraStore.open(self.url, readonly=True)
        try:
            head = before = await store.head()
            async with asyncio.timeout(90):
                while head is None or before is None or head.term == before.term:
                    await asyncio.sleep(0.02)
                    head = await store.head()
            return head.seq
        finally:
            await store.close()

    async def check_log(self, heads: set[int]) -> None:
        """Every head that was served is in the log, which goes on without a gap."""
        store = await CassandraStore.open(self.url, readonly=True)
        try:
            entries = await store.head_entries(0, 100_000)
        finally:
            await store.close()
        assert [one.seq for one in entries] == list(range(1, len(entries) + 1))
        assert heads <= {one.seq for one in entries}
        assert all(str(TipsetKey(one.head.key).cid) in self.truth.tipsets for one in entries)

    def close(self) -> None:
        for process in (*self.others[1:], *self.followers, *self.bridges, *self.others[:1]):
            process.close()
        self.proxy.stop()
