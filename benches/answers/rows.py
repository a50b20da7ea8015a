"""Each method's requests/s, p50, p99 and CPU time beside those of an older version, and so its times Lotus.

    python -m benches.answers.rows --old CLONE [--chain busy|devnet] [--rows REGEX] [--turns N]

Two whole followers of two workers each serve one store of the recorded chain, one of this checkout and one of CLONE.
They are asked in turn (A B, B A, …) by `wrk` with one thread and 32 connections. A row asks the recorded calls of a
method, all different ones, up to 200.

`LOTUS` and `FOREST` tell how many times as many requests/s as Lotus and Forest a follower of commit f9e4737 answered in
one run beside them (2 workers over LMDB, two cores that the load generator shared). With CLONE at that commit, the
paired ratio times this is what the row is worth beside Lotus now.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import geometric_mean, median
from typing import Any, Final, NamedTuple

import orjson
import zstandard

from benches.rpc_load import Load, load
from benches.stores.shared import serving
from blockstore.open import open_store
from follower.commands.load.local_cpu import with_children
from follower.commands.load.made_mix import SHARES
from leader_bridge.imports.importer import import_car
from tests.support.paths import ROOT
from tests.support.recorded import recorded

#: different calls of a row, and calls of the mix
_CALLS: Final = 200
_MIX: Final = 2000
#: blocks of which `eth_feeHistory` is asked, where the recording has few
_FEE_EPOCHS: Final = range(100, 900, 20)


class Row(NamedTuple):
    """A method, its calls in which `needs` is found, and requests/s and p99 of f9e4737 by those of Lotus."""

    method: str
    times: float
    p99: float
    needs: str = ""


LOTUS: Final = {
    "mix": Row("", 4.4, 0.16),
    "eth_getBlockByNumber, full": Row("eth_getBlockByNumber", 7.4, 0.08, "true"),
    "eth_getTransactionReceipt": Row("eth_getTransactionReceipt", 9.0, 0.04),
    "eth_getLogs": Row("eth_getLogs", 10.4, 0.06),
    "eth_getCode of a contract": Row("eth_getCode", 58, 0.01, "contract"),
    "eth_getStorageAt of a contract": Row("eth_getStorageAt", 65, 0.01, "contract"),
    "eth_getBlockReceipts": Row("eth_getBlockReceipts", 35, 0.01),
    "ChainGetParentMessages": Row("Filecoin.ChainGetParentMessages", 14, 0.02),
    "eth_blockNumber": Row("eth_blockNumber", 2.3, 0.15),
    "ChainHead": Row("Filecoin.ChainHead", 3.0, 0.10),
    "ChainGetBlock": Row("Filecoin.ChainGetBlock", 3.6, 0.10),
    "ChainGetTipSetByHeight": Row("Filecoin.ChainGetTipSetByHeight", 5.8, 0.09),
    "WalletBalance": Row("Filecoin.WalletBalance", 2.7, 0.16),
    "eth_getBalance": Row("eth_getBalance", 2.7, 0.16),
    "eth_feeHistory": Row("eth_feeHistory", 2.1, 0.20),
    "ChainReadObj": Row("Filecoin.ChainReadObj", 3.0, 0.11),
    "StateGetActor": Row("Filecoin.StateGetActor", 2.5, 0.17),
    "StateReadState": Row("Filecoin.StateReadState", 23, 0.03),
    "StateSearchMsg": Row("Filecoin.StateSearchMsg", 5.0, 0.11),
    "StateMinerPower": Row("Filecoin.StateMinerPower", 2.5, 0.21),
    "StateMinerInfo": Row("Filecoin.StateMinerInfo", 1.7, 0.23),
    "StateMinerDeadlines": Row("Filecoin.StateMinerDeadlines", 1.3, 0.30),
    "StateListActors": Row("Filecoin.StateListActors", 0.9, 0.31),
}
#: requests/s of f9e4737 by those of Forest 0.34, of the rows in which it was behind
FOREST: Final = {"StateListActors": 0.9, "StateMinerDeadlines": 0.5, "eth_getTransactionReceipt": 0.4}


def recorded_params(chain: str) -> dict[str, list[Any]]:
    """The different parameters of the recorded calls that had a result, by method; none about "pending"."""
    found: dict[str, dict[bytes, Any]] = defaultdict(dict)
    with zstandard.open(recorded(chain) / "rpc.jsonl.zst", "rt", encoding="utf-8") as lines:
        for line in lines:
            call = orjson.loads(line)
            if call["path"] == "/rpc/v1" and "error" not in call and "pending" not in line.partition('"result"')[0]:
                found[call["method"]].setdefault(orjson.dumps(call["params"]), call["params"])
    return {method: list(params.values()) for method, params in found.items()}


def questions(chain: str) -> dict[str, list[bytes]]:
    """Request bodies by row."""
    params = recorded_params(chain)
    contracts = orjson.loads((recorded(chain) / "meta.json").read_bytes())["Contracts"]
    params["eth_feeHistory"] += [["0xa", hex(epoch), [25.0, 75.0]] for epoch in _FEE_EPOCHS]
    params["eth_chainId"] = [[]]

    def is_wanted(needs: str, text: str) -> bool:
        return any(one in text for one in contracts) if needs == "contract" else needs in text

    found = {}
    for name, row in LOTUS.items():
        some = [one for one in params.get(row.method, []) if is_wanted(row.needs, orjson.dumps(one).decode())]
        found[name] = [body(row.method, one) for one in _spread(some)]
    random = Random(1)
    found["mix"] = [
        body(method, random.choice(_spread(params[method])))
        for method in random.choices(list(SHARES), list(SHARES.values()), k=_MIX)
    ]
    return {name: bodies for name, bodies in found.items() if bodies}


def _spread(some: Sequence[Any]) -> Sequence[Any]:
    """At most `_CALLS` of them, from all of the recording."""
    return [some[at * len(some) // _CALLS] for at in range(_CALLS)] if len(some) > _CALLS else some


def body(method: str, params: Any) -> bytes:
    """One request."""
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


async def import_chain(folder: Path, chain: str) -> str:
    """The URL of a store with a recorded chain in it."""
    url = f"lmdb://{folder}/store"
    store = await open_store(url, map_size=1 << 30)
    await import_car(store, recorded(f"{chain}/chain.car.zst"), network_file=recorded(f"{chain}/network.json"))
    await store.close()
    return url


class Pair(NamedTuple):
    """What one row took in each turn, by the older version and by this one."""

    old: list[Load]
    new: list[Load]

    @property
    def times(self) -> float:
        """This version's requests/s by the older one's: the median of the turns."""
        return median(new.rate / old.rate for old, new in zip(self.old, self.new, strict=True))

    @property
    def p99_times(self) -> float:
        """This version's p99 by the older one's: the median of the turns."""
        return median(new.p99 / old.p99 for old, new in zip(self.old, self.new, strict=True))


def measure(servers: Sequence[tuple[str, list[int]]], bodies: Sequence[bytes], turns: int) -> Pair:
    """Ask both servers in turn, after a second each that does not count."""
    took: tuple[list[Load], list[Load]] = ([], [])
    for turn in range(-1, turns):
        for at in (0, 1) if turn % 2 else (1, 0):
            url, pids = servers[at]
            one = load(url, bodies, pids=pids, seconds=1.0)
            if turn >= 0:
                took[at].append(one)
    return Pair(*took)


def line_of(name: str, calls: int, pair: Pair) -> str:
    """One row of a Markdown table."""
    row = LOTUS[name]
    lotus = f"{row.times * pair.times:.1f} | {row.p99 * pair.p99_times:.2f}"
    forest = f"{FOREST[name] * pair.times:.1f}" if name in FOREST else ""
    shown = [
        f"{median(one.rate for one in some):,.0f} | {_ms(some, 'p50')} | {_ms(some, 'p99')} | {_cpu(some):.1f}"
        for some in (pair.new, pair.old)
    ]
    return f"| {name} | {calls} | {shown[0]} | {shown[1]} | {pair.times:.2f} | {lotus} | {forest} |"


def _ms(some: Sequence[Load], name: str) -> str:
    return f"{median(getattr(one, name) for one in some) * 1e3:.2f}"


def _cpu(some: Sequence[Load]) -> float:
    return sum(one.cpu for one in some) / max(1, sum(one.requests for one in some)) * 1e6


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.answers.rows", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--old", type=Path, required=True, metavar="CLONE", help="a checkout of the older version")
    parser.add_argument("--chain", choices=("busy", "devnet"), default="busy")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows in which this is found")
    parser.add_argument("--turns", type=int, default=4, help="seconds of load on each version for a row (default 4)")
    args = parser.parse_args(arguments)
    asked = {name: bodies for name, bodies in questions(args.chain).items() if re.search(args.rows, name)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = asyncio.run(import_chain(Path(folder), args.chain))
        started = [stack.enter_context(serving(url, {"workers": "2"}, root)) for root in (args.old.resolve(), ROOT)]
        servers = [(f"http://127.0.0.1:{port}/rpc/v1", with_children([pid])) for port, pid in started]
        print("| | calls | requests/s | p50 ms | p99 ms | CPU us | before | p50 ms | p99 ms | CPU us | times before "
              "| times Lotus | p99 by its | times Forest |\n|" + "---|" * 14, flush=True)  # fmt: skip
        ratios = []
        for name, bodies in asked.items():
            pair = measure(servers, bodies, args.turns)
            ratios.append(pair.times)
            print(line_of(name, len(bodies), pair), flush=True)
        print(f"\ntimes before, geometric mean of {len(ratios)} rows: {geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
