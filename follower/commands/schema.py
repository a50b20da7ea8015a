"""`follower schema`: the statements that make a shared store and grant its roles, printed and applied."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from typing import Any

from blockstore.open import open_store
from follower.settings import CannotRun, Settings, shared_options


def schema_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--apply", action="store_true", help="apply the statements too")
    parser.add_argument(
        "--roles",
        metavar="READER,WRITER",
        help="grant these roles (which exist) what a follower and a bridge need",
    )


def run_schema(settings: Settings, args: Any) -> int:
    """Print the statements, and apply them where that is asked for. Errors: CannotRun, StoreUnavailable."""
    if not settings["store"].startswith("cassandra://"):
        raise CannotRun("only a shared store (cassandra://host/keyspace) has a schema to print")
    from blockstore.cassandra import schema as cassandra_schema
    from blockstore.cassandra.address import CassandraAddress

    place = CassandraAddress.parse(settings["store"])
    cql = cassandra_schema.statements(place.keyspace, settings["replication"])
    grants: list[str] = []
    if args.roles is not None:
        reader, _, writer = args.roles.partition(",")
        try:
            grants = cassandra_schema.grants(place.keyspace, reader, writer)
        except ValueError as error:
            raise CannotRun(f"--roles {args.roles}: {error}; give READER,WRITER") from None
    for statement in (*cql, *grants):
        print(statement + ";")
    if args.apply:
        # a writer that opens it writes the rows that every store begins with, too
        asyncio.run(_make(settings))
        cassandra_schema.run(place, grants)
        print(f"-- applied to {place.url}")
    return 0


async def _make(settings: Settings) -> None:
    store = await open_store(settings["store"], shared=replace(shared_options(settings), make=True))
    await store.close()
