"""Opens the place of rows that a text names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blockstore.store_url import public_url
from chain.errors import BadRequest
from leader_bridge.tables.sinks.sink import Sink
from leader_bridge.tables.table import Table


async def open_sink(place: str, tables: Sequence[Table]) -> Sink:
    """`parquet:DIR` or `postgresql://…`, with these tables made where they are not there.

    Errors: BadRequest (no such place; its library is not installed), SinkError, OSError.
    """
    kind, _, rest = place.partition(":")
    if kind == "parquet" and rest:
        try:
            from leader_bridge.tables.sinks.parquet_files import ParquetSink
        except ModuleNotFoundError as error:
            raise _not_installed("Parquet", "tables", error) from None
        return ParquetSink(Path(rest))
    if kind in ("postgresql", "postgres") and rest.startswith("//"):
        try:
            from leader_bridge.tables.sinks.postgres import PostgresSink
        except ImportError as error:
            raise _not_installed("PostgreSQL", "postgres", error) from None
        return await PostgresSink.open(place, tables)
    raise BadRequest(
        f"{public_url(place).partition('?')[0]!r} is no place for tables: give parquet:DIR or postgresql://[user@]host[:port]/database"
    )


def _not_installed(what: str, extra: str, error: ImportError) -> BadRequest:
    return BadRequest(f"{what} needs another library ({error}): pip install 'lotus-follower[{extra}]'")
