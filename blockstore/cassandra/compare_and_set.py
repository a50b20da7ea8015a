"""Compare-and-set of one row: a conditional statement. One that timed out is read, and sent again, until it is settled.

Values are stored as they are: two versions of LZ4 may write the same value in two ways, and be compared for ever.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from blockstore.cassandra.session import OutcomeUnknown, Session
from blockstore.errors import StoreUnavailable

#: tries of a statement that times out
_TRIES: Final = 5
#: before the second try, half of this to this; twice as long before each other
_PAUSE_SECONDS: Final = 0.1
_PLAIN: Final = b"\0"


async def swap(
    session: Session, table: str, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
) -> bool:
    """As `Store.swap`; `table` with its keyspace. Errors: StoreUnavailable (not known whether it was written)."""
    where = [partition, key]
    if expected is None:
        if value is None:
            return not await session.execute(f"SELECT v FROM {table} WHERE p = ? AND k = ?", where)
        cql = f"INSERT INTO {table} (p, k, v) VALUES (?, ?, ?) IF NOT EXISTS"
        values: list[Any] = [*where, _PLAIN + value]
    elif value is None:
        cql = f"DELETE FROM {table} WHERE p = ? AND k = ? IF v = ?"
        values = [*where, _PLAIN + expected]
    else:
        cql = f"UPDATE {table} SET v = ? WHERE p = ? AND k = ? IF v = ?"
        values = [_PLAIN + value, *where, _PLAIN + expected]
    wanted = None if value is None else _PLAIN + value
    before = None if expected is None else _PLAIN + expected
    uncertain = False
    for tried in range(_TRIES):
        if tried:
            # several that compare the same row at once hold each other up: each waits for a time of its own
            await asyncio.sleep(random.uniform(0.5, 1.0) * _PAUSE_SECONDS * 2 ** (tried - 1))
        try:
            if (await session.execute(cql, values))[0][0]:
                return True
            if not uncertain:
                return False
        except OutcomeUnknown:
            uncertain = True
        # an earlier try that timed out may have been applied
        rows = await session.execute(f"SELECT v FROM {table} WHERE p = ? AND k = ?", where, serial=True)
        found = rows[0][0] if rows else None
        if found == wanted:
            return True
        if found != before:
            break
    raise StoreUnavailable(f"a compare-and-set on {table} times out")
