"""Adds the hook `count`: an SQLite file with how often each tipset was applied and reverted.

The counts and the position are written in one transaction. So each change counts exactly once, also when the process
is killed at any moment.
"""

from __future__ import annotations

import os
import sqlite3
from typing import ClassVar, Literal

from follower import TipsetChange, TipsetHook
from follower.extending.chain import Chain

#: names the file
FILE_VARIABLE = "EXAMPLE_COUNTS"


class CountTipsets(TipsetHook):
    """Counts from the oldest change on that the head log still has."""

    begins_at: ClassVar[Literal["head", "oldest"]] = "oldest"
    keeps_position: ClassVar[bool] = True

    def __init__(self) -> None:
        self._database = sqlite3.connect(os.environ.get(FILE_VARIABLE, "tipset-counts.sqlite"))
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS counts"
                " (key BLOB PRIMARY KEY, height INTEGER, applied INTEGER DEFAULT 0, reverted INTEGER DEFAULT 0)"
            )
            self._database.execute("CREATE TABLE IF NOT EXISTS place (id INTEGER PRIMARY KEY, position TEXT)")

    async def position(self) -> str | None:
        """The position of the last change that counted."""
        row = self._database.execute("SELECT position FROM place WHERE id = 0").fetchone()
        return None if row is None else str(row[0])

    async def applied(self, chain: Chain, change: TipsetChange) -> None:
        """One more."""
        self._count(change, "applied")

    async def reverted(self, chain: Chain, change: TipsetChange) -> None:
        """One more."""
        self._count(change, "reverted")

    def _count(self, change: TipsetChange, column: str) -> None:
        with self._database:
            self._database.execute(
                f"INSERT INTO counts (key, height, {column}) VALUES (?, ?, 1)"
                f" ON CONFLICT (key) DO UPDATE SET {column} = {column} + 1",
                (bytes(change.tipset.key), change.tipset.height),
            )
            self._database.execute("INSERT OR REPLACE INTO place VALUES (0, ?)", (change.position,))

    async def close(self) -> None:
        """Close the file."""
        self._database.close()
