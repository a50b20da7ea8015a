"""The command line: `follower SUBCOMMAND`. Each subcommand is one declaration in `COMMANDS`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from follower.settings import ENV_PREFIX, SETTINGS, CannotRun, Settings, SettingsError, load_settings

#: exit codes: 0 done, 1 failed, 2 cannot run as it was called or set (trying again changes nothing)
CANNOT_RUN: Final = 2


Run = Callable[[Settings, argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: what it does, an example, the settings it takes as flags, its own arguments."""

    name: str
    doc: str
    example: str
    settings: tuple[str, ...]
    run: Run
    arguments: Callable[[argparse.ArgumentParser], None] | None = None


def _up(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.up import up

    return up(settings, config=args.config)


def _bridge(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.up import run_bridge

    return run_bridge(settings)


def _serve(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.up import serve

    return serve(settings, config=args.config, one=args.one)


def _import(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.up import run_import

    return run_import(settings, args.file, index=not args.no_index)


def _replay(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.played_nodes import replay

    return replay(settings, args)


def _simulate(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.played_nodes import simulate

    return simulate(settings, args)


def _compare(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.compare import run_compare

    return run_compare(args)


def _status(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.status import status

    return status(settings, as_json=args.json)


def _schema(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.schema import run_schema

    return run_schema(settings, args)


def _loadbalancer(settings: Settings, args: argparse.Namespace) -> int:
    from follower.commands.loadbalancer import run_loadbalancer

    return run_loadbalancer(settings, args)


def _config(settings: Settings, args: argparse.Namespace) -> int:
    for setting, value, source in settings.table():
        print(f"# {setting.doc}\n# default {setting.default!r}; flag {setting.flag}; environment {setting.env}")
        print(f"{setting.name} = {value}  # from {source}\n")
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="CARv1, CARv2, .car.zst or .forest.car.zst; - for standard input")
    parser.add_argument("--network", dest="flag_network_file", metavar="FILE", help="the network's network.json")
    parser.add_argument("--no-index", action="store_true", help="objects only, no index rows and no head")


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    from follower.commands.played_nodes import replay_arguments

    replay_arguments(parser)


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    from follower.commands.played_nodes import simulate_arguments

    simulate_arguments(parser)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    from follower.commands.compare import add_arguments

    add_arguments(parser)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    from follower.commands.schema import schema_arguments

    schema_arguments(parser)


def _loadbalancer_arguments(parser: argparse.ArgumentParser) -> None:
    from follower.commands.loadbalancer import loadbalancer_arguments

    loadbalancer_arguments(parser)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")


_SHARED: Final = ("delta_ms", "epsilon_ms", "replication")
_SERVING: Final = (
    "store",
    "listen",
    "workers",
    "node",
    "state",
    "object_cache_mb",
    "max_body_mb",
    "max_batch",
    "max_in_flight",
    "jwt_secret_file",
    "admin_listen",
    "ready_lag",
    "drain_seconds",
    "drain_notice_seconds",
    "fleet",
    "advertise",
    "agent_listen",
    "renew_seconds",
    "map_size_gb",
    "log_level",
    "node_timeout",
    *_SHARED,
)
_BRIDGING: Final = (
    "store",
    "node",
    "state",
    "backfill",
    "actor_code",
    "network_file",
    "fetch_concurrency",
    "fetch_batch",
    "node_timeout",
    "poll_interval",
    "map_size_gb",
    "log_level",
    "metrics_listen",
    "lease_seconds",
    *_SHARED,
)

COMMANDS: Final = (
    Command(
        "up",
        "A bridge and its followers in one command.",
        "follower up --node https://api.calibration.node.glif.io/rpc/v1 --state lazy",
        tuple(dict.fromkeys(_SERVING + _BRIDGING)),
        _up,
    ),
    Command(
        "bridge",
        "Follow a full node and keep the store.",
        "follower bridge --node $FULLNODE_API_INFO --store lmdb:///var/lib/follower",
        _BRIDGING,
        _bridge,
    ),
    Command(
        "serve",
        "Answer JSON-RPC from the store.",
        "follower serve --store lmdb:///var/lib/follower --listen 0.0.0.0:1234 --workers 4",
        _SERVING,
        _serve,
        _serve_arguments,
    ),
    Command(
        "import",
        "Read a CAR file into the store.",
        "follower import snapshot.forest.car.zst --store lmdb:///var/lib/follower",
        ("store", "map_size_gb", "log_level", *_SHARED),
        _import,
        _import_arguments,
    ),
    Command(
        "replay",
        "Serve a recorded chain as a full node would.",
        "follower replay recorded/devnet --listen 127.0.0.1:1235 --interval 0.3",
        ("listen", "log_level"),
        _replay,
        _replay_arguments,
    ),
    Command(
        "simulate",
        "Serve a chain made up here as a full node would.",
        "follower simulate --listen 127.0.0.1:1235 --block-time 1",
        ("listen", "log_level"),
        _simulate,
        _simulate_arguments,
    ),
    Command(
        "compare",
        "Ask recorded questions and compare the answers.",
        "follower compare --target http://127.0.0.1:1234 --records rpc.jsonl.zst --methods 'Filecoin\\.Chain'",
        ("log_level",),
        _compare,
        _compare_arguments,
    ),
    Command(
        "status",
        "What the store holds and where its head is.",
        "follower status --store lmdb:///var/lib/follower",
        ("store", "map_size_gb", "log_level"),
        _status,
        _status_arguments,
    ),
    Command(
        "schema",
        "The statements that make a shared store.",
        "follower schema --store cassandra://host1,host2/filecoin --replication 3 --apply",
        ("store", "replication", "log_level"),
        _schema,
        _schema_arguments,
    ),
    Command(
        "loadbalancer",
        "The configuration of HAProxy or nginx, from the fleet in the store.",
        "follower loadbalancer haproxy --store cassandra://db1,db2/filecoin --output /etc/haproxy/haproxy.cfg",
        ("store", "map_size_gb", "log_level", *_SHARED),
        _loadbalancer,
        _loadbalancer_arguments,
    ),
    Command(
        "config",
        "Every setting, its default, and where its value came from.",
        "follower config --config follower.toml",
        tuple(setting.name for setting in SETTINGS),
        _config,
    ),
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="follower", description="Follower RPC nodes for Filecoin.")
    subparsers = parser.add_subparsers(dest="command", metavar="SUBCOMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.doc,
            description=command.doc,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
        for setting in SETTINGS:
            if setting.name in command.settings:
                sub.add_argument(
                    setting.flag,
                    dest="flag_" + setting.name,
                    metavar=setting.name.rpartition("_")[2].upper(),
                    help=f"{setting.doc} (default {setting.default!r})".replace("%", "%%"),
                )
        if command.arguments is not None:
            command.arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The process's exit code; see `CANNOT_RUN`."""
    args = build_parser().parse_args(argv)
    flags = {name[5:]: value for name, value in vars(args).items() if name.startswith("flag_")}
    if args.config is None and os.environ.get(ENV_PREFIX + "CONFIG"):
        args.config = Path(os.environ[ENV_PREFIX + "CONFIG"])
    try:
        settings = load_settings(args.config, flags=flags)
        logging.basicConfig(
            level=settings["log_level"].upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        return _guarded(args.run, settings, args)
    except SettingsError as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN


def _guarded(run: Run, settings: Settings, args: Any) -> int:
    from blockstore.errors import BadCar, StoreError, StoreUnavailable
    from chain.errors import ChainError

    try:
        return run(settings, args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except CannotRun as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    except (StoreUnavailable, BadCar) as error:
        print(f"follower: {error}", file=sys.stderr)
        return 1
    except (StoreError, ChainError) as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    except OSError as error:
        print(f"follower: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
