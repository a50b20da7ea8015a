"""Reports: what a task did to a tipset, one row of REPORTS each.

A partition is a day of epochs. The key is epoch, tipset, kind, task. A success and a failure of one task have rows of
their own (`kind`), so a failure that comes late never hides a success. A null round has one row a task under a digest
of zeros. Reports of a tipset that was reverted are withdrawn.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from blockstore.store import REPORTS, Batch, Store
from chain.errors import BadObject
from chain.tipset import TipsetKey

#: epochs a partition
REPORTS_BUCKET: Final = 2880
#: what stands for the tipset of a null round
NULL_ROUND: Final = bytes(32)
#: rows of a page of a scan
PAGE: Final = 10_000
_DONE: Final = b"\0"
_NOT_DONE: Final = b"\1"
#: partition: a row a bucket that changes whenever reports of that bucket are written
_TOUCHED: Final = b"touched"
_MOST_BUCKETS: Final = 100_000
_DIGEST: Final = 32
#: characters of an error's text that are kept
_MOST_ERROR: Final = 500


class Status(enum.IntEnum):
    """How a task ended. OK and INFO are successes."""

    OK = 1
    #: a success with nothing to do: a null round
    INFO = 2
    #: the task cannot be done here, and trying again soon changes nothing
    SKIP = 3
    ERROR = 4

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self in (Status.OK, Status.INFO)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a success lets the leader say: `index` covers the epochs `low` to `high`; the row of tipset `flagged` (its
    key) gains `flags`. An empty index or key says nothing."""

    index: bytes = b""
    low: int = 0
    high: int = -1
    flagged: bytes = b""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """`tipset`: its digest, or NULL_ROUND. Times are milliseconds since 1970."""

    height: int
    tipset: bytes
    task: str
    status: Status
    reporter: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    error: str = ""
    claim: Claim | None = None

    def row(self) -> tuple[bytes, bytes, bytes]:
        """(partition, key, value)."""
        claim = self.claim
        fields = [
            self.reporter,
            self.started_ms,
            self.ended_ms,
            self.error[:_MOST_ERROR],
            None if claim is None else [claim.index.decode(), claim.low, claim.high, claim.flagged.hex(), claim.flags],
        ]
        key = report_key(self.height, self.tipset, self.task, done=self.status.is_done)
        return partition_of(self.height), key, bytes((self.status,)) + orjson.dumps(fields)


def digest_of(key: TipsetKey) -> bytes:
    """How reports name a tipset: the digest of its key's CID, which Ethereum calls the block hash."""
    return key.block_hash


def partition_of(height: int) -> bytes:
    """The partition in which an epoch's reports are."""
    return b"r" + (height // REPORTS_BUCKET).to_bytes(8, "big")


def report_key(height: int, tipset: bytes, task: str, *, done: bool) -> bytes:
    """The row key of a report. `done`: of a success."""
    return height.to_bytes(8, "big") + tipset + (_DONE if done else _NOT_DONE) + task.encode()


def done_keys(height: int, tipset: bytes, tasks: Iterable[bytes]) -> list[bytes]:
    """The row keys of the successes that make a tipset complete."""
    prefix = height.to_bytes(8, "big") + tipset + _DONE
    return [prefix + task for task in tasks]


def decode_report(key: bytes, value: bytes) -> Report:
    """Errors: BadObject."""
    try:
        reporter, started, ended, error, raw = orjson.loads(value[1:])
        claim = None if raw is None else Claim(raw[0].encode(), raw[1], raw[2], bytes.fromhex(raw[3]), raw[4])
        return Report(
            int.from_bytes(key[:8], "big"),
            key[8 : 8 + _DIGEST],
            key[9 + _DIGEST :].decode(),
            Status(value[0]),
            reporter,
            started,
            ended,
            error,
            claim,
        )
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise BadObject(f"not a report: {error}") from None


async def save_reports(store: Store, reports: Sequence[Report], failed_before: Collection[str] = ()) -> None:
    """Write reports, after all that they promise is durable. `failed_before`: tasks whose failures a success settles.

    Errors: StoreError.
    """
    if not reports:
        return
    batch = Batch()
    for report in reports:
        batch.put(REPORTS, *report.row())
        if report.status.is_done and report.task in failed_before:
            failed = report_key(report.height, report.tipset, report.task, done=False)
            batch.delete(REPORTS, partition_of(report.height), failed)
    last = reports[-1]
    stamp = f"{last.reporter} {last.ended_ms}".encode()
    for bucket in {report.height // REPORTS_BUCKET for report in reports}:
        batch.put(REPORTS, _TOUCHED, bucket.to_bytes(8, "big"), stamp)
    await store.write(batch)


async def touched_buckets(store: Store) -> dict[int, bytes]:
    """By bucket, a stamp that changes whenever reports of it are written. Errors: StoreError."""
    rows = await store.scan(REPORTS, _TOUCHED, limit=_MOST_BUCKETS)
    return {int.from_bytes(key, "big"): stamp for key, stamp in rows}


def untouch(batch: Batch, bucket: int) -> None:
    """Forget with a batch that reports of a bucket were written: they are removed."""
    batch.delete(REPORTS, _TOUCHED, bucket.to_bytes(8, "big"))


async def reported_tasks(store: Store, height: int, tipset: bytes, tasks: Sequence[str]) -> tuple[set[str], set[str]]:
    """Which of these tasks are done for a tipset, and which have failed. One burst."""
    partition = partition_of(height)
    asked = [(task, done) for task in tasks for done in (True, False)]
    keys = [(partition, report_key(height, tipset, task, done=done)) for task, done in asked]
    rows = await store.rows(REPORTS, keys)
    found = [one for one, row in zip(asked, rows, strict=True) if row is not None]
    return {task for task, done in found if done}, {task for task, done in found if not done}


async def report_pages(store: Store, low: int, high: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """(key, value) of the reports of epochs `low` to `high`, rising, a page at a time."""
    for bucket in range(low // REPORTS_BUCKET, high // REPORTS_BUCKET + 1):
        first, last = max(low, bucket * REPORTS_BUCKET), min(high, (bucket + 1) * REPORTS_BUCKET - 1)
        partition, start = partition_of(first), first.to_bytes(8, "big")
        end = (last + 1).to_bytes(8, "big")
        while True:
            page = await store.scan(REPORTS, partition, start=start, end=end, limit=PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                break
            start = page[-1][0] + b"\0"


async def reports_of(store: Store, low: int, high: int) -> AsyncIterator[Report]:
    """The reports of epochs `low` to `high`, rising. Errors: BadObject, StoreError."""
    async for page in report_pages(store, low, high):
        for key, value in page:
            yield decode_report(key, value)


async def withdraw(store: Store, height: int, tipset: bytes) -> int:
    """Remove all reports of a tipset that was reverted; how many there were. Errors: StoreError."""
    partition, start = partition_of(height), height.to_bytes(8, "big") + tipset
    batch = Batch()
    for key, _ in await store.scan(REPORTS, partition, start=start, end=start + b"\xff", limit=PAGE):
        batch.delete(REPORTS, partition, key)
    if batch:
        await store.write(batch)
    return len(batch.deletes)
