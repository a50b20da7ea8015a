"""`follower schema`: the statements that make a shared store and grant its roles, printed and applied."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from typing import Final

from follower.commands.command import Command
from follower.settings import CannotRun, Settings, shared_options


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the statements, and apply them with --apply. Errors: CannotRun, StoreUnavailable."""
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
        # opening the store as a writer also writes the rows that every store begins with
        asyncio.run(_create(settings))
        cassandra_schema.run(place, grants)
        print(f"-- applied to {place.url}")
    return 0


async def _create(settings: Settings) -> None:
    from blockstore.open import open_store

    store = await open_store(settings["store"], shared=replace(shared_options(settings), may_create_tables=True))
    await store.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to apply, and the roles."""
    parser.add_argument("--apply", action="store_true", help="apply the statements too")
    parser.add_argument(
        "--roles",
        metavar="READER,WRITER",
        help="grant these roles (which exist) what a follower and a bridge need",
    )


COMMAND: Final = Command(
    "schema",
    "The statements that make a shared store.",
    "follower schema --store cassandra://host1,host2/filecoin --replication 3 --apply",
    run,
    add_arguments,
)
