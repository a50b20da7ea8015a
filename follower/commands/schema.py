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
        migrated = asyncio.run(_create(settings))
        cassandra_schema.run(place, grants)
        print(f"-- applied to {place.url}")
        if migrated:
            print("-- the tables of the older version were copied. When you do not want to go back to it any more:")
            print("\n".join(f"-- {statement};" for statement in migrated))
    return 0


async def _create(settings: Settings) -> list[str]:
    """The statements that remove the tables of an older version, where those were copied."""
    from blockstore.cassandra.store import CassandraStore
    from blockstore.open import open_store

    shared = replace(shared_options(settings), may_create_tables=True, may_migrate=True)
    store = await open_store(settings["store"], shared=shared)
    await store.close()
    return store.copied_from if isinstance(store, CassandraStore) else []


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
