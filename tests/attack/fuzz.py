"""`make fuzz`: HTTP, WebSocket and JSON-RPC that no client would send, to a real follower for as long as is asked.

    python -m tests.attack.fuzz [--seconds 600] [--seed N]

Requests are recorded ones that hypothesis changes: values replaced, heads and frames cut, bytes exchanged. After each,
the follower must have answered or closed within seconds; in the end it must have logged no traceback, grown by little,
and end in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.attack.server import Served, recorded_store, served
from tests.attack.wire import HOST, Peer, call, post
from tests.support.recorded import recorded

#: seconds in which a request is answered or its connection closed
ANSWER_SECONDS = 30.0
#: seconds that a request which is not whole is waited for
CUT_SECONDS = 0.2
#: growth that caches explain
MAX_GROWTH_BYTES = 256 << 20
MAX_FILES_OVER = 8
_EXAMPLES = 200

#: values that parsers and methods trip over
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, 10**40, 0.5, -0.0, 1e308, "", "0x", "0x0",
    "0x00", "0x" + "f" * 64, "0x" + "f" * 65, "-1", "1e3", "latest", "pending", "safe", "finalized", "earliest", "f0",
    "f00", "f01", "f099999999999999999999", "t01000", "f410f", "f3aaaa", "\x00", "\ufffd", "é" * 100, "A" * 5000,
    "/" * 300, [], [[]], {}, {"/": ""}, {"/": "bafy"}, {"/": 1}, {"/": "bafy2bzaced"},
    {"/": "QmRgutAxd8t7oGkSm4wmeuByG6M51wcTso6cubDdQtuEfL"}, {"": 0}, {"fromBlock": "0x10", "toBlock": "0x1"},
    {"blockHash": "0x"}, {"address": [], "topics": [[[]]]},
]  # fmt: skip
_SCALARS = (
    st.sampled_from(ODD) | st.text(max_size=20) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@dataclass
class Seen:
    """What a run has seen so far."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def seeds(count: int, chosen: random.Random) -> list[dict[str, Any]]:
    """Recorded calls, several of each method."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    with zstandard.open(recorded("devnet/rpc.jsonl.zst"), "rt", encoding="utf-8") as lines:
        for line in lines:
            one = json.loads(line)
            by_method.setdefault(one["path"] + one["method"], []).append(one)
    some = [one for calls in by_method.values() for one in chosen.sample(calls, min(len(calls), 12))]
    chosen.shuffle(some)
    return [{"path": one["path"], "method": one["method"], "params": one["params"]} for one in some[:count]]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one place in it replaced, dropped, doubled or wrapped."""
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        kind = draw(st.sampled_from(["inside", "drop", "double"]))
        if kind == "drop":
            return value[:at] + value[at + 1 :]
        if kind == "double":
            return [*value, value[at]]
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(changed(value[key]))}
    if isinstance(value, str) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return value[:at] + draw(st.text(max_size=2)) + value[at + 1 :]
    return draw(VALUES)


@st.composite
def bodies(draw: st.DrawFn, known: list[dict[str, Any]]) -> tuple[str, bytes]:
    """(path, body) of a request: single or batch, sometimes no JSON."""
    some = []
    path = "/rpc/v1"
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 3]))):
        origin = draw(st.sampled_from(known))
        path = origin["path"]
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": origin["method"], "params": origin["params"]}
        if draw(st.integers(0, 9)):
            request["params"] = draw(changed(request["params"]))
        else:
            request = draw(changed(request))
        some.append(request)
    text = json.dumps(some[0] if len(some) == 1 else some, ensure_ascii=draw(st.booleans()))
    body = text.encode("utf-8", "surrogatepass")
    if not draw(st.integers(0, 9)):
        body = draw(scrambled(body))
    return path, body


@st.composite
def scrambled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` cut, with bytes exchanged, or with a part doubled."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    kind = draw(st.sampled_from(["cut", "byte", "insert", "double"]))
    if kind == "cut":
        return data[:at]
    if kind == "byte":
        return data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + draw(st.binary(max_size=16)) + data[at:]
    return data[:at] + data[at // 2 : at] + data[at:]


@st.composite
def frames(draw: st.DrawFn, body: bytes, known: list[dict[str, Any]]) -> list[bytes]:
    """WebSocket frames: `body` and others, some with a wrong opcode, length, or end."""
    some = []
    for part in (body, *(draw(bodies(known))[1] for _ in range(draw(st.integers(0, 3))))):
        if draw(st.booleans()):
            opcode = draw(st.sampled_from([1, 1, 1, 2, 0, 8, 9, 10, 3, 15]))
            some.append(frame(part, opcode, draw(st.booleans()), draw(st.none() | st.integers(0, 1 << 40))))
        else:
            some.append(frame(part, 1, True))
    return some


class Fuzzer:
    """Sends what hypothesis draws. One loop for all examples; each uses connections of its own."""

    def __init__(self, follower: Served, seen: Seen) -> None:
        self._follower = follower
        self._seen = seen

    async def http(self, request: bytes, is_whole: bool) -> None:
        """One request; whole ones must be answered or refused by a close."""
        peer = await Peer.connect(self._follower.port, limit=1 << 26)
        try:
            await peer.send(request)
            seconds = ANSWER_SECONDS if is_whole else CUT_SECONDS
            async with asyncio.timeout(seconds):
                status, body = await peer.answer()
        except TimeoutError:
            if is_whole:
                self._seen.faults.append(f"no answer in {ANSWER_SECONDS:g} s to {request[:2000]!r}")
            self._seen.counts["waiting"] += 1
            return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            self._seen.counts["closed"] += 1
            return
        finally:
            peer.drop()
        self._seen.counts[str(status)] += 1
        if b'"code":-32603' in body:
            self._seen.faults.append(f"an internal error answers {request[:2000]!r}: {body[:300]!r}")

    async def websocket(self, path: str, some: list[bytes]) -> None:
        """One session that sends these bytes as they are."""
        peer = await Peer.connect(self._follower.port, limit=1 << 26)
        try:
            await peer.send(
                f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            async with asyncio.timeout(ANSWER_SECONDS):
                await peer.reader.readuntil(b"\r\n\r\n")
            for one in some:
                await peer.send(one)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CUT_SECONDS):
                    while await peer.reader.read(1 << 16):
                        self._seen.counts["frames"] += 1
            self._seen.counts["sessions"] += 1
        except TimeoutError:
            self._seen.faults.append(f"no answer to an upgrade in {ANSWER_SECONDS:g} s")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._seen.counts["closed"] += 1
        finally:
            peer.drop()

    async def alive(self) -> None:
        """The follower answers somebody else."""
        peer = await Peer.connect(self._follower.port, limit=1 << 20)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, _ = await peer.ask(post(call("Filecoin.ChainHead")))
            if status != 200:
                self._seen.faults.append(f"ChainHead is answered with status {status}")
        finally:
            peer.drop()


def frame(data: bytes, opcode: int, is_last: bool, length: int | None = None) -> bytes:
    """A masked WebSocket frame (the mask is zero), whose head says `length` where it is given."""
    size = len(data) if length is None else length
    head = bytes([(0x80 if is_last else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + bytes(4) + data


def fuzz(follower: Served, seconds: float, start: int) -> Seen:
    """Send for `seconds`; `start` is the first seed."""
    seen = Seen()
    known = seeds(2000, random.Random(start))
    target = Fuzzer(follower, seen)
    end = time.monotonic() + seconds
    with asyncio.Runner() as runner:

        def over() -> bool:
            return bool(seen.faults) or time.monotonic() >= end

        def one(number: int) -> None:
            @seed(number)
            @settings(
                max_examples=_EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(st.data())
            def example(data: st.DataObject) -> None:
                # all is drawn first: what hypothesis draws must not depend on what the follower answers
                kind = data.draw(st.sampled_from(["body", "body", "body", "body", "bytes", "frames"]))
                path, body = data.draw(bodies(known))
                if kind == "body":
                    work = target.http(post(body, path=path), True)
                elif kind == "bytes":
                    work = target.http(data.draw(scrambled(post(body, path=path))), False)
                else:
                    work = target.websocket(path, data.draw(frames(body, known)))
                if over():
                    work.close()
                    return
                runner.run(work)
                seen.counts["examples"] += 1

            example()

        while not over():
            one(start)
            start += 1
            runner.run(target.alive())
    return seen


def run(seconds: float, start: int, folder: Path) -> Seen:
    """Start a follower, fuzz it, and judge what it has become."""
    with served(recorded_store(folder / "store"), folder) as follower:
        fuzz(follower, min(3.0, seconds / 4), start + 1_000_000)  # caches fill
        before, files = follower.resident_bytes(), follower.open_files()
        seen = fuzz(follower, seconds, start)
        grown = follower.resident_bytes() - before
        left = follower.settled_files(files + MAX_FILES_OVER, 20)
        if grown > MAX_GROWTH_BYTES:
            seen.faults.append(f"the follower has grown by {grown >> 20} MiB")
        if left > files + MAX_FILES_OVER:
            seen.faults.append(f"{left} file descriptors are open, {files} were before")
        log = follower.log
    text = log.read_text(errors="replace")
    if "Traceback" in text:
        at = text.index("Traceback")
        seen.faults.append(f"the follower has logged a traceback: {text[max(0, at - 300) : at + 2500]}")
    return seen


def main() -> int:
    """Exit code 1 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default 600)")
    parser.add_argument("--seed", type=int, help="the first seed (default: of the clock)")
    args = parser.parse_args()
    start = int(time.time()) if args.seed is None else args.seed
    print(f"seed {start}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        Path(folder, "store").mkdir()
        seen = run(args.seconds, start, Path(folder))
    print(dict(sorted(seen.counts.items())))
    for fault in seen.faults:
        print(fault, file=sys.stderr)
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
