"""Ask a server what a real node was asked, and compare the answers. `follower compare` and many tests use it.

A record is one JSON line: `path`, `method`, `params`, then `result` or `error`. An answer is equal when its
JSON value is the recorded one (the order of an object's keys says nothing; numbers are compared exactly), or
when both are errors with the same code. "Not served yet" is equal to nothing, not even to an error.

Records are read, asked and compared as a stream: memory holds a few batches, however long the files are.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import zstandard

from rpc.client.node_info import parse_node_info
from rpc.errors import NOT_SERVED
from rpc.node_errors import BadNodeInfo

#: exit codes, as the command line has them
EQUAL: Final = 0
DIFFERENT: Final = 1
CANNOT_RUN: Final = 2

#: calls in a request, requests in flight
_BATCH_CALLS: Final = 20
_BATCH_BYTES: Final = 1 << 20
_CONCURRENCY: Final = 4
_TIMEOUT_SECONDS: Final = 120.0
_SHOWN: Final = 240
#: numbers that a float or a 64-bit integer may not hold: such texts are read with exact numbers
_LONG_NUMBER: Final = re.compile(rb"[:,\[\s]-?[\d.]{16,}|[:,\[\s]-?\d[\d.]*[eE]")


class CompareError(Exception):
    """Nothing can be compared: a file that is no record file, a target that does not answer."""


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded call. `answer` is `{"result": …}` or `{"error": {"code", "message"}}`."""

    path: str
    method: str
    params: Any
    answer: dict[str, Any]
    size: int

    @property
    def call(self) -> str:
        """The method and its parameters as JSON, a space between."""
        return f"{self.method} {json.dumps(self.params, separators=(',', ':'), default=str)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A call whose answer is another one; `text` says where and what."""

    path: str
    method: str
    params: Any
    text: str

    def __str__(self) -> str:
        return f"{self.path} {self.method} {shorten(self.params)}\n    {self.text}"


@dataclass(slots=True)
class Tally:
    """Counts of one path and method. `other_text`: equal errors whose message differs."""

    total: int = 0
    equal: int = 0
    not_served: int = 0
    other_text: int = 0


@dataclass(slots=True)
class Report:
    """What a run found: the counts by (path, method), and the first differences of each."""

    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    #: equal errors with another message; worth a look, never a difference
    texts: list[Difference] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Calls asked."""
        return sum(tally.total for tally in self.tallies.values())

    @property
    def equal(self) -> int:
        """Calls answered as recorded."""
        return sum(tally.equal for tally in self.tallies.values())

    @property
    def whole_methods(self) -> int:
        """(path, method) pairs of which every recorded answer is equal."""
        return sum(tally.equal == tally.total for tally in self.tallies.values())

    @property
    def exit_code(self) -> int:
        """`EQUAL`, `DIFFERENT`, or `CANNOT_RUN` where no record was asked for."""
        if not self.total:
            return CANNOT_RUN
        return EQUAL if self.equal == self.total else DIFFERENT

    def lines(self, limit: int) -> Iterator[str]:
        """The report as text, with at most `limit` differences."""
        width = max((len(f"{path} {method}") for path, method in self.tallies), default=0)
        for (path, method), tally in sorted(self.tallies.items()):
            mark = "ok  " if tally.equal == tally.total else "DIFF"
            line = f"{mark} {f'{path} {method}':<{width}} {tally.equal}/{tally.total}"
            if tally.not_served:
                line += f", {tally.not_served} not served yet"
            if tally.other_text:
                line += f", {tally.other_text} errors with another text"
            yield line
        shown = self.differences[:limit]
        if shown:
            yield f"first {len(shown)} of {self.total - self.equal} differences:"
            for difference in shown:
                yield f"  {difference}"
        percent = 100 * self.equal / self.total if self.total else 0.0
        yield f"whole methods: {self.whole_methods}/{len(self.tallies)}"
        yield f"answers: {self.equal}/{self.total} equal ({percent:.2f} %)"


# --- values --------------------------------------------------------------------------------------------


def shorten(value: Any, limit: int = _SHOWN) -> str:
    """A JSON value as text, cut in the middle where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … {text[-limit // 2 :]} ({len(text)} characters)"


def loads(data: bytes) -> Any:
    """JSON with exact numbers: an integer of any size is an int, any other number a float or Decimal.

    Errors: ValueError.
    """
    if _LONG_NUMBER.search(data):
        return json.loads(data, parse_float=Decimal)
    return orjson.loads(data)


def first_difference(wanted: Any, got: Any, at: str = "result") -> str | None:
    """Where two JSON values differ first, in words; None where they are equal."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in wanted:
            if key not in got:
                return f"{at}.{key}: recorded {shorten(wanted[key])}, the answer has no such key"
            found = first_difference(wanted[key], got[key], f"{at}.{key}")
            if found is not None:
                return found
        for key in got:
            if key not in wanted:
                return f"{at}.{key}: not recorded, the answer has {shorten(got[key])}"
        return None
    if isinstance(wanted, list) and isinstance(got, list):
        for index, (left, right) in enumerate(zip(wanted, got, strict=False)):
            found = first_difference(left, right, f"{at}[{index}]")
            if found is not None:
                return found
        if len(wanted) != len(got):
            return f"{at}: {len(wanted)} items recorded, {len(got)} in the answer"
        return None
    if _same_scalar(wanted, got):
        return None
    return f"{at}: recorded {shorten(wanted)}, answered {shorten(got)}"


def _same_scalar(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, float | Decimal) and isinstance(got, float | Decimal):
        return Decimal(str(wanted)) == Decimal(str(got))
    # True is 1 to Python, and 1 is 1.0
    return type(wanted) is type(got) and bool(wanted == got)


def _error_text(error: dict[str, Any]) -> str:
    return f"error {error.get('code')}: {shorten(error.get('message'))}"


def judge(record: Record, answer: Any) -> tuple[str | None, bool]:
    """(why the answer is not the recorded one, or None; whether it says "not served yet")."""
    if not isinstance(answer, dict) or ("result" not in answer and not isinstance(answer.get("error"), dict)):
        return f"not an answer: {shorten(answer)}", False
    error = answer.get("error")
    wanted = record.answer.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        said = _error_text(error)
        if code == NOT_SERVED:
            return said, True
        if wanted is None:
            return f"recorded {shorten(record.answer['result'])}, answered {said}", False
        if not _same_scalar(wanted.get("code"), code):
            return f"recorded {_error_text(wanted)}, answered {said}", False
        return None, False
    if wanted is not None:
        return f"recorded {_error_text(wanted)}, answered {shorten(answer['result'])}", False
    return first_difference(record.answer["result"], answer["result"]), False


# --- records -------------------------------------------------------------------------------------------


def read_records(
    path: Path, methods: re.Pattern[str], paths: Sequence[str] = (), exclude: re.Pattern[str] | None = None
) -> Iterator[Record]:
    """The records of a `.jsonl` or `.jsonl.zst` file whose method matches, as a stream.

    `paths` are API paths such as "/rpc/v1"; none means all. `exclude` is looked for in the method and the
    parameters as JSON, a space between. Errors: CompareError, OSError.
    """
    with open(path, "rb") as file:
        stream: io.RawIOBase | io.BufferedReader = file
        if path.name.endswith(".zst"):
            stream = zstandard.ZstdDecompressor().stream_reader(file)  # type: ignore[assignment]
        with closing(io.BufferedReader(stream, 1 << 20)) as lines:
            try:
                for number, line in enumerate(lines, 1):
                    record = _record(path, number, line)
                    if paths and record.path not in paths:
                        continue
                    if methods.search(record.method) and not (exclude and exclude.search(record.call)):
                        yield record
            except zstandard.ZstdError as error:
                raise CompareError(f"{path}: {error}") from None


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        row = loads(line)
        error = row.get("error")
        # a recorded null result is a real one
        answer = {"result": row.get("result")} if error is None else {"error": error}
        return Record(row["path"], row["method"], row.get("params"), answer, len(line))
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        raise CompareError(f"{path}: line {number} is not a record: {why!r}") from None


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Records in order, grouped to batches of one path, bounded in number and in recorded bytes."""
    batch: list[Record] = []
    weight = 0
    for record in records:
        full = len(batch) >= size or weight + record.size > _BATCH_BYTES
        if batch and (full or record.path != batch[0].path):
            yield batch
            batch, weight = [], 0
        batch.append(record)
        weight += record.size
    if batch:
        yield batch


# --- asking --------------------------------------------------------------------------------------------


class _Asker:
    """Posts batches; a batch of one is posted as a single call."""

    def __init__(self, session: aiohttp.ClientSession, base: str, headers: dict[str, str]) -> None:
        self._session = session
        self._base = base
        self._headers = {**headers, "Content-Type": "application/json"}

    async def ask(self, batch: Sequence[Record]) -> list[Any]:
        """The answers in the order of the calls; for one that did not come, a text. Errors: CompareError."""
        calls = [
            {"jsonrpc": "2.0", "id": at, "method": record.method, "params": record.params}
            for at, record in enumerate(batch)
        ]
        body = json.dumps(calls if len(calls) > 1 else calls[0], default=float).encode()
        url = self._base + batch[0].path
        try:
            async with self._session.post(url, data=body, headers=self._headers) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CompareError(f"{url} does not answer: {error or type(error).__name__}") from None
        try:
            value = loads(raw)
        except ValueError:
            return [f"HTTP status {status}: {raw[:200]!r}"] * len(batch)
        if len(calls) == 1:
            return [value]
        if not isinstance(value, list):
            return [value] * len(batch)
        by_id = {answer.get("id"): answer for answer in value if isinstance(answer, dict)}
        return [by_id.get(at, "no answer in the batch") for at in range(len(batch))]


async def compare(
    target: str,
    records: Path | Sequence[Path],
    methods: str = "",
    *,
    paths: Sequence[str] = (),
    exclude: str = "",
    report: int = 20,
    batch: int = _BATCH_CALLS,
    concurrency: int = _CONCURRENCY,
    timeout: float = _TIMEOUT_SECONDS,
) -> Report:
    """Ask `target` every recorded call whose method matches the regular expression, and compare.

    `target` is a URL without the API path (`http://127.0.0.1:1234`), or the `TOKEN:ADDR` form; `paths` API
    paths such as "/rpc/v1" (none: all); `report` how many differences are kept; `batch` calls go in one
    request; `concurrency` requests are under way at once; `timeout` in seconds, for one request.
    Errors: CompareError, OSError (a file), re.error.
    """
    files = [records] if isinstance(records, Path) else list(records)
    try:
        node = parse_node_info(target)[0]
    except BadNodeInfo as error:
        raise CompareError(str(error)) from None
    base = f"{'https' if node.secure else 'http'}://{node.base}"
    pattern, excluded = re.compile(methods), re.compile(exclude) if exclude else None
    found = Report()

    def every() -> Iterator[list[Record]]:
        for file in files:
            yield from _batches(read_records(file, pattern, paths, excluded), batch)

    queue: asyncio.Queue[list[Record] | None] = asyncio.Queue(maxsize=2 * concurrency)

    async def feed() -> None:
        source = every()
        while some := await asyncio.to_thread(lambda: list(islice(source, concurrency))):
            for item in some:
                await queue.put(item)
        for _ in range(concurrency):
            await queue.put(None)

    async def work(asker: _Asker) -> None:
        while (item := await queue.get()) is not None:
            for record, answer in zip(item, await asker.ask(item), strict=True):
                _count(found, record, answer, report)

    limits = aiohttp.ClientTimeout(total=timeout)
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(timeout=limits, connector=connector) as session:
        asker = _Asker(session, base, node.headers())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feed())
                for _ in range(concurrency):
                    group.create_task(work(asker))
        except* (CompareError, OSError) as errors:
            raise _first(errors) from None
    return found


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _count(found: Report, record: Record, answer: Any, keep: int) -> None:
    tally = found.tallies.setdefault((record.path, record.method), Tally())
    tally.total += 1
    why, not_served = judge(record, answer)
    if why is not None:
        tally.not_served += not_served
        if len(found.differences) < keep:
            found.differences.append(Difference(record.path, record.method, record.params, why))
        return
    tally.equal += 1
    wanted, error = record.answer.get("error"), answer.get("error")
    if wanted is not None and wanted.get("message") != error.get("message"):
        tally.other_text += 1
        if len(found.texts) < keep:
            text = f"recorded {shorten(wanted.get('message'))}\n    answered {shorten(error.get('message'))}"
            found.texts.append(Difference(record.path, record.method, record.params, text))
