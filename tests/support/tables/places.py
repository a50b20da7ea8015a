"""Places of tables for tests, read back the same way whatever they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
from psycopg import sql
from psycopg.rows import dict_row

from blockstore.store import Store
from leader_bridge.tables.catalogue import find_tasks
from leader_bridge.tables.extract import ExtractReport, extract
from leader_bridge.tables.sinks.opening import open_sink
from leader_bridge.tables.table import Table, Type
from tests.support.tables.postgres import postgres_url

KINDS = ("parquet", "postgresql")


@dataclass(frozen=True, slots=True)
class Place:
    """Where tables are: `url` as `--to-store` takes it."""

    url: str

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row, in the order of the key: numbers as int, JSON as text."""
        found = self._from_files(table) if self.url.startswith("parquet:") else self._from_database(table)
        wide = [column.name for column in table.columns if column.type is Type.WIDE]
        as_json = [column.name for column in table.columns if column.type is Type.JSON]
        for row in found:
            for name, value in row.items():
                if isinstance(value, Decimal) or (name in wide and value is not None):
                    row[name] = int(value)
            for name in as_json:
                # the two keep the text of JSON in other forms
                row[name] = None if row[name] is None else json.loads(row[name])
        return sorted(found, key=lambda row: tuple(row[name] for name in table.key))

    def _from_files(self, table: Table) -> list[dict[str, Any]]:
        files = sorted((Path(self.url.removeprefix("parquet:")) / table.name).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def _from_database(self, table: Table) -> list[dict[str, Any]]:
        columns = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(one.name)) if one.type is Type.JSON else sql.Identifier(one.name)
            for one in table.columns
        )
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            return connection.execute(
                sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(table.name))
            ).fetchall()

    async def extract(self, store: Store, *names: str, **options: Any) -> ExtractReport:
        """Run tasks, `all` where none is named; `options`: as `extract` takes them."""
        tasks = find_tasks(names or ["all"])
        sink = await open_sink(self.url, [task.table for task in tasks])
        try:
            return await extract(store, sink, tasks, **options)
        finally:
            await sink.close()


def new_place(kind: str, make_folder: Callable[[], Path]) -> Place:
    """An empty place of a kind. Skips or fails the test where there is no PostgreSQL."""
    return Place(f"parquet:{make_folder()}" if kind == "parquet" else postgres_url())
