"""Compare-and-set of one row: a conditional statement. One that timed out is read, and sent again, until it is settled.

Several processes that change one row hold each other up, and some get a time-out for an answer. Meanwhile another one
may change the row again, so its value alone does not say what became of ours. So a cell holds, before the value, the
random ids of the last swaps of the row (ADR 0018). All conditions are on whole cells, of which no two are the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from typing import Any, Final

from blockstore.cassandra.session import OutcomeUnknown, Session
from blockstore.cassandra.values import ID_BYTES, MAX_CELL, ids_of, unpack, with_ids
from blockstore.errors import StoreUnavailable

#: tries of a statement that times out
_TRIES: Final = 6
#: after the first time-out, half of this to this; twice as long after each other
_PAUSE_SECONDS: Final = 0.1
#: ids that a cell holds: so many swaps of others may pass until ours is settled
_IDS: Final = 16
#: the most bytes of a value
MOST_VALUE: Final = MAX_CELL - 2 - _IDS * ID_BYTES


async def swap(
    session: Session, table: str, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
) -> bool:
    """As `Store.swap`; `table` with its keyspace. Errors: StoreUnavailable (not known whether it was written)."""
    own = secrets.token_bytes(ID_BYTES)
    before: bytes | None = None
    time_outs = 0
    for _ in range(_TRIES):
        found = await _cell(session, table, partition, key, serial=time_outs > 0)
        if time_outs == 0:
            if (None if found is None else unpack(found)) != expected:
                return False
            before = found
        elif found != before:
            return _was_applied(own, before, found, value is None, table)
        cql, values = _statement(table, partition, key, before, value, own)
        if not cql:
            return True
        try:
            if (await session.execute(cql, values))[0][0]:
                return True
        except OutcomeUnknown:
            # it may be applied now, later or never. Each of those that compare the row waits for a time of its own
            await asyncio.sleep(random.uniform(0.5, 1.0) * _PAUSE_SECONDS * 2**time_outs)
            time_outs += 1
    raise StoreUnavailable(f"a compare-and-set on {table} times out")


async def _cell(session: Session, table: str, partition: bytes, key: bytes, *, serial: bool) -> bytes | None:
    rows = await session.execute(f"SELECT v FROM {table} WHERE p = ? AND k = ?", [partition, key], serial=serial)
    return rows[0][0] if rows else None


def _statement(
    table: str, partition: bytes, key: bytes, before: bytes | None, value: bytes | None, own: bytes
) -> tuple[str, list[Any]]:
    """What replaces the cell `before` with `value`, as the swap `own`; "" where there is nothing to do."""
    if value is None:
        if before is None:
            return "", []
        return f"DELETE FROM {table} WHERE p = ? AND k = ? IF v = ?", [partition, key, before]
    ids = [] if before is None else _ids(before)
    after = with_ids([*ids, own][-_IDS:], value)
    if before is None:
        return f"INSERT INTO {table} (p, k, v) VALUES (?, ?, ?) IF NOT EXISTS", [partition, key, after]
    return f"UPDATE {table} SET v = ? WHERE p = ? AND k = ? IF v = ?", [after, partition, key, before]


def _ids(cell: bytes) -> list[bytes]:
    """The swaps that led to a cell, oldest first; a former version's cell, without any, counts as one of them."""
    return ids_of(cell) or [hashlib.sha256(cell).digest()[:ID_BYTES]]


def _was_applied(own: bytes, before: bytes | None, found: bytes | None, removes: bool, table: str) -> bool:
    """Whether the swap `own` of the cell `before` was applied, by the cell that stands there now: another one.

    A condition on `before` never holds again, so the answer is final. Errors: StoreUnavailable.
    """
    if found is None and removes:
        return True
    if found is not None:
        ids = _ids(found)
        if own in ids:
            return True
        if before is not None and _ids(before)[-1] in ids:
            # those that came after it are all there
            return False
    raise StoreUnavailable(f"a compare-and-set on {table} timed out; since then the row was removed, or changed often")
