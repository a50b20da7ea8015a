"""What a table is: its columns, their types, its key; and what a task is, which makes the rows of one tipset.

A row is a tuple in the order of the columns. Every table has a column `height`: all rows that a task makes of a
tipset have the tipset's epoch there, so a tipset's rows are replaced, or withdrawn, by the epoch alone.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from leader_bridge.tables.source import TipsetView

Row = tuple[Any, ...]
#: Makes the rows of a tipset, some at a time. Errors: ChainError (NotHeld: the store lacks what they are made of).
MakeRows = Callable[["TipsetView"], AsyncIterator[list[Row]]]


class Type(enum.Enum):
    """The type of a column; a value is the Python type that rows have."""

    BIGINT = "bigint"  # int of 64 bits
    NUMERIC = "numeric"  # int, at most 38 digits by the rules of the chain
    WIDE = "wide"  # int of any size: text in Parquet, numeric in PostgreSQL
    TEXT = "text"  # str
    BOOLEAN = "boolean"  # bool
    BYTES = "bytea"  # bytes
    JSON = "jsonb"  # str, JSON


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `doc`: one sentence, with the unit."""

    name: str
    type: Type
    is_nullable: bool
    doc: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `key`: the columns of its primary key."""

    name: str
    doc: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in the order of a row."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Task:
    """Makes one table, tipset by tipset. `name` is what `--tasks` takes.

    `needs_child`: rows of a tipset are made from its child's header too, so the head's own have to wait.
    """

    name: str
    table: Table
    rows: MakeRows
    needs_child: bool = False


def columns_of(text: str) -> tuple[Column, ...]:
    """Columns from lines of "name type doc"; a type with a "?" behind it allows null. Errors: ValueError."""
    found = []
    for line in text.splitlines():
        if line.strip():
            name, type_name, doc = line.split(maxsplit=2)
            found.append(Column(name, Type(type_name.rstrip("?")), type_name.endswith("?"), doc))
    return tuple(found)


def table(name: str, doc: str, *, key: str, columns: str) -> Table:
    """A table; `key`: names of columns, separated by spaces; `columns`: as `columns_of`. Errors: ValueError."""
    made = Table(name, doc, tuple(key.split()), columns_of(columns))
    unknown = {"height", *made.key} - set(made.names)
    if unknown:
        raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    return made


def signed(number: int) -> int:
    """An unsigned number of 64 bits as BIGINT holds it: from 2^63 on less 2^64."""
    return number - (1 << 64) if number >> 63 else number


#: bytes that a value takes in memory beside its content, about
_VALUE_BYTES: Final = 40


def memory_of(rows: Iterable[Row]) -> int:
    """Bytes of memory that rows take, about."""
    return sum(_VALUE_BYTES + (len(value) if type(value) in (str, bytes) else 0) for row in rows for value in row)
