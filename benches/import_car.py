"""Import of a made-up CAR of realistic sizes: MB/s and objects/s, with and without indices, wall and CPU time.

    python -m benches.import_car [--gigabytes 2] [--zstd] [--folder DIR] [--memory-mb 0]
    python -m benches.import_car --gigabytes 10 --make big.car
    python -m benches.import_car --file big.car [--only objects] [--memory-mb 0] [--cgroup-mb 2048]

The CAR holds a chain of epochs as busy as mainnet's: 20,000 new state objects each (mean about a kilobyte:
small actor records and messages, nodes of HAMTs and AMTs with links to new and old objects, sector infos with
commitments), five blocks with real messages in AMTs. It is written parents first, as an export walks.

`--memory-mb` is the setting `import_memory_mb` (0: every file is sorted, -1: none is). `--cgroup-mb` moves the import
into a memory cgroup of version 1 with such a limit, which counts the page cache too (as root). A file of `--file`
needs `FILE.network.json` beside it, which `--make` writes. Each import says its rate in each tenth of a phase.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import resource
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import zstandard

from blockstore.car.writer import CarWriter
from blockstore.cid import Cid, cid_of
from blockstore.open import open_store
from chain.block import BlockHeader, encode_header
from chain.ipld.amt import amt_build
from chain.ipld.dag_cbor import encode
from chain.message import Message, SignedMessage, encode_message, encode_signed_message
from leader_bridge.imports.importer import ImportReport, import_car
from leader_bridge.imports.progress import Reporter, Silent

STATE_OBJECTS: Final = 20_000
MESSAGES: Final = 200
BLOCKS: Final = 5
_PREFIX: Final = b"\x01\x71\xa0\xe4\x02\x20"
_LINK: Final = b"\xd8\x2a\x58\x27\x00"
_COMMITMENT: Final = b"\xd8\x2a\x58\x28\x00\x01\x81\xe2\x03\x92\x20\x20"  # unsealed
_EMPTY_ROOT: Final = cid_of(b"\x80")


class MadeChain:
    """Makes epochs; `random.Random(1)` makes the same chain each time."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._pool = self._random.randbytes(8 << 20)
        #: CIDs of the last epoch's objects: what new nodes link to beside new ones
        self._old: list[bytes] = []
        self._nonce = 0
        self.head: tuple[Cid, ...] = ()
        self.genesis: Cid | None = None

    def _bytes(self, size: int) -> bytes:
        at = self._random.randrange(len(self._pool) - size)
        return b"\x59" + size.to_bytes(2, "big") + self._pool[at : at + size]

    def _state(self, count: int) -> tuple[Cid, list[tuple[bytes, bytes]]]:
        """A state root and its new objects, children first."""
        rng, blake2b = self._random, hashlib.blake2b
        made: list[tuple[bytes, bytes]] = []

        def put(data: bytes) -> bytes:
            cid = _PREFIX + blake2b(data, digest_size=32).digest()
            made.append((cid, data))
            return cid

        level: list[bytes] = []
        for number in range(count * 6 // 10):
            if number % 4 == 0:  # a few sector infos in an AMT's leaf
                sectors = b"".join(_COMMITMENT + rng.randbytes(32) + self._bytes(150) for _ in range(4))
                level.append(put(b"\x88" + sectors))
            else:
                level.append(put(b"\x81" + self._bytes(int(rng.lognormvariate(6.2, 0.9)) % 8000)))
        first = level
        while len(level) > 1:
            above: list[bytes] = []
            for at in range(0, len(level), 2 if len(level) > 64 else 16):
                children = level[at : at + (2 if len(level) > 64 else 16)]
                children += rng.choices(self._old, k=14) if self._old else []
                links = b"".join(_LINK + child for child in children)
                head = b"\x98" + bytes((len(children),))
                above.append(put(b"\x82" + self._bytes(200) + head + links))
            level = above
        self._old = first + [cid for cid, _ in made[-2000:]]
        return Cid(level[0]), made

    def _messages(self) -> tuple[Cid, list[tuple[bytes, bytes]]]:
        made: list[tuple[bytes, bytes]] = []
        cids: tuple[list[Cid], list[Cid]] = ([], [])
        for number in range(MESSAGES):
            self._nonce += 1
            to, sender = b"\1" + self._random.randbytes(20), b"\1" + self._random.randbytes(20)
            params = self._random.randbytes(self._random.randrange(400))
            message = Message(0, to, sender, self._nonce, 10**18, 10**6, 10**9, 10**5, 2, params)
            if number % 3:
                raw = encode_signed_message(SignedMessage(message, (1, self._random.randbytes(65))))
            else:
                raw = encode_message(message)
            cid = cid_of(raw)
            cids[1 if number % 3 else 0].append(cid)
            made.append((cid, raw))
        roots = [
            _now(amt_build(lambda cid, raw: made.append((cid, raw)), part, version=0, bit_width=3)) for part in cids
        ]
        meta = encode(roots)
        made.append((cid_of(meta), meta))
        return cid_of(meta), made

    def epoch(self, height: int, state_objects: int) -> list[tuple[bytes, bytes]]:
        """The objects of the next epoch, parents first."""
        state, made = self._state(state_objects)
        parents = self.head or (cid_of(b"no parent"),)
        blocks: list[tuple[Cid, bytes]] = []
        for number in range(BLOCKS if height else 1):
            messages, raws = self._messages()
            made += raws
            header = BlockHeader(
                cid=_EMPTY_ROOT,
                miner=b"\0" + bytes((number + 1,)),
                ticket=self._random.randbytes(96),
                election_proof=(1, self._random.randbytes(96)),
                beacon_entries=((height, self._random.randbytes(96)),),
                win_post=((3, self._random.randbytes(192)),),
                parents=parents,
                parent_weight=height * 1000,
                height=height,
                parent_state_root=state,
                parent_message_receipts=_EMPTY_ROOT,
                messages=messages,
                bls_aggregate=(2, self._random.randbytes(96)),
                timestamp=1_700_000_000 + 30 * height,
                block_sig=(2, self._random.randbytes(96)),
                fork_signaling=0,
                parent_base_fee=100,
            )
            raw = encode_header(header)
            blocks.append((cid_of(raw), raw))
        blocks.sort(key=lambda block: _ticket_order(block[1]))
        self.head = tuple(cid for cid, _ in blocks)
        if self.genesis is None:
            self.genesis = self.head[0]
        return [*blocks, *reversed(made)]


def _now(work: Coroutine[Any, Any, Cid]) -> Cid:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Cid = done.value
        return result
    raise RuntimeError("it waits")


def _ticket_order(raw: bytes) -> bytes:
    from chain.block import decode_header
    from chain.tipset import ticket_digest

    return ticket_digest(decode_header(cid_of(raw), raw))


def make_car(path: Path, size: int, state_objects: int = STATE_OBJECTS) -> tuple[MadeChain, int, int]:
    """Write a CAR of at least `size` bytes; (the chain, objects, bytes)."""
    chain = MadeChain()
    objects = 0
    with open(path, "wb") as file:
        # the head is known at the end: as many roots are written over these
        writer = CarWriter(file, [Cid(cid_of(bytes((n,)))) for n in range(BLOCKS)])
        height = 0
        while writer.offset < size or not height:
            for cid, raw in chain.epoch(height, state_objects):
                writer.write(Cid(cid), raw)
                objects += 1
            height += 1
            while len(chain.head) != BLOCKS:
                for cid, raw in chain.epoch(height, state_objects):
                    writer.write(Cid(cid), raw)
                    objects += 1
                height += 1
        file.seek(0)
        CarWriter(file, chain.head)
    return chain, objects, writer.offset


@contextlib.contextmanager
def measured(out: dict[str, float]) -> Iterator[None]:
    """Wall seconds and CPU seconds (children's too) of what runs inside."""
    began, before = time.perf_counter(), _cpu()
    yield
    out["wall"], out["cpu"] = time.perf_counter() - began, _cpu() - before


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_utime + resource.getrusage(kind).ru_stime for kind in kinds)


class Tenths(Silent):
    """Remembers when each phase of an import was how far."""

    def __init__(self) -> None:
        self._phases: list[tuple[str, int | None, list[tuple[float, int]]]] = []

    def phase(self, what: str, total: int | None, unit: str) -> None:
        self._phases.append((what, total, [(time.perf_counter(), 0)]))

    def at(self, done: int, note: str = "") -> None:
        if self._phases:
            self._phases[-1][2].append((time.perf_counter(), done))

    def lines(self) -> Iterator[str]:
        """For each phase its seconds, and the rate in each tenth of it in units a second."""
        ends = [points[0][0] for _, _, points in self._phases[1:]] + [time.perf_counter()]
        for (what, total, points), end in zip(self._phases, ends, strict=True):
            rates = []
            for tenth in range(10):
                if not total:
                    break
                low, high = total * tenth / 10, total * (tenth + 1) / 10
                inside = [point for point in points if low <= point[1] <= high]
                if len(inside) > 1 and inside[-1][0] > inside[0][0]:
                    rate = (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
                    rates.append(f"{rate / 1e6:.0f}" if rate > 1e5 else f"{rate:.1f}")
            yield f"    {what:8} {end - points[0][0]:7.1f} s   {' '.join(rates)}"


async def _one(
    path: Path, network: Path, folder: Path, index: bool, process: bool | None, memory: int, progress: Reporter
) -> ImportReport:
    store = await open_store(f"lmdb://{folder / 'store'}", bulk=True)
    try:
        return await import_car(
            store,
            path,
            network_file=network,
            index=index,
            process=process,
            folder=folder / "import",
            sort_above=None if memory < 0 else memory << 20,
            progress=progress,
        )
    finally:
        await store.close()


def limit_memory(megabytes: int) -> None:
    """Move this process into a cgroup of its own with so much memory, page cache included. Errors: OSError."""
    group = Path("/sys/fs/cgroup/memory") / f"import-bench-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def compress(source: Path, target: Path) -> None:
    """As `zstd -3` does."""
    with open(source, "rb") as plain, open(target, "wb") as out:
        zstandard.ZstdCompressor(level=3, threads=2).copy_stream(plain, out)


def write_network(path: Path) -> Path:
    """The network file of a made chain, beside it."""
    network = path.with_name(path.name + ".network.json")
    record = {
        "network_name": "made",
        "address_prefix": "t",
        "eth_chain_id": 1,
        "block_delay_secs": 30,
        "upgrades": [{"height": -1, "network_version": 22}],
    }
    network.write_bytes(orjson.dumps(record))
    return network


def run(size: int, folder: Path, zstd: bool, say: Any = print, memory: int = -1) -> list[dict[str, Any]]:
    """Make the CAR, import it both ways; one result each."""
    path = folder / "made.car"
    _, objects, length = make_car(path, size)
    say(f"made {length / 1e9:.2f} GB, {objects:,} objects, mean {length / objects:,.0f} bytes")
    if zstd:
        compress(path, folder / "made.car.zst")
        path = folder / "made.car.zst"
    network = write_network(path)
    return [measure(path, network, folder, index, memory, length, say) for index in (False, True)]


def measure(
    path: Path, network: Path, folder: Path, index: bool, memory: int, length: int, say: Any = print
) -> dict[str, Any]:
    """Import a file of `length` bytes of objects once. The store is deleted afterwards."""
    tenths = Tenths()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        taken: dict[str, float] = {}
        with measured(taken):
            report = asyncio.run(_one(path, network, Path(made), index, None, memory, tenths))
        size = sum(path.stat().st_size for path in (Path(made) / "store").rglob("data.mdb"))
    result = {
        "indices": index,
        "MB/s": round(length / 1e6 / taken["wall"], 1),
        "objects/s": round(report.objects / taken["wall"]),
        "wall_s": round(taken["wall"], 2),
        "cpu_s": round(taken["cpu"], 2),
        "tipsets": report.tipsets,
        "closed": report.closed,
    }
    name = "import, with indices" if index else "import, objects only"
    say(
        f"{name:22} {result['MB/s']:8.1f} MB/s {result['objects/s']:10,} objects/s "
        f"{result['wall_s']:7.1f} s wall {result['cpu_s']:7.1f} s CPU, store {size / 1e9:.2f} GB"
    )
    for line in tenths.lines():
        say(line)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--zstd", action="store_true", help="import the compressed form")
    parser.add_argument("--folder", type=Path, help="where to put the CAR and the stores (a temporary folder)")
    parser.add_argument("--make", type=Path, metavar="FILE", help="make the CAR, and end")
    parser.add_argument("--file", type=Path, help="import this CAR, plain and made by --make")
    parser.add_argument("--only", choices=("objects", "indices"), help="with --file: import it once")
    parser.add_argument("--memory-mb", type=int, default=-1, metavar="N", help="sort larger files; -1: none")
    parser.add_argument("--cgroup-mb", type=int, metavar="N", help="limit memory and page cache to N MiB")
    args = parser.parse_args()
    if args.make:
        _, objects, length = make_car(args.make, int(args.gigabytes * 1e9))
        write_network(args.make)
        print(f"made {length / 1e9:.2f} GB, {objects:,} objects, mean {length / objects:,.0f} bytes")
        return
    if args.cgroup_mb:
        limit_memory(args.cgroup_mb)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="import-bench-") as folder:
        if args.file:
            network = args.file.with_name(args.file.name + ".network.json")
            for index in (False, True):
                if args.only != ("objects" if index else "indices"):
                    measure(args.file, network, Path(folder), index, args.memory_mb, args.file.stat().st_size)
        else:
            run(int(args.gigabytes * 1e9), Path(folder), args.zstd, memory=args.memory_mb)
        os.sync()


if __name__ == "__main__":
    main()
