"""The command line: `follower SUBCOMMAND`. Each subcommand is declared in a file of `follower/commands/`.

One whose name has two words (`follower store stats`) is declared in the folder of the first word.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from follower.commands import (
    admin,
    auth,
    backfill,
    bridge,
    compare,
    config,
    disperse,
    doctor,
    execute,
    extract,
    hooks,
    import_car,
    index,
    load,
    loadbalancer,
    replay,
    resume,
    schema,
    serve,
    simulate,
    status,
    store,
    sync,
    up,
)
from follower.commands.command import CANNOT_RUN, FAILED, Run
from follower.logs.set_up import report_failure, set_up_log
from follower.setting import ENV_PREFIX
from follower.settings import CannotRun, Settings, SettingsError, load_settings
from follower.settings_table import SETTINGS
from rpc.release import software_version

COMMANDS: Final = (
    up.COMMAND,
    bridge.COMMAND,
    serve.COMMAND,
    execute.COMMAND,
    hooks.COMMAND,
    resume.COMMAND,
    import_car.COMMAND,
    sync.COMMAND,
    backfill.COMMAND,
    replay.COMMAND,
    simulate.COMMAND,
    compare.COMMAND,
    disperse.COMMAND,
    *load.COMMANDS,
    status.COMMAND,
    doctor.COMMAND,
    schema.COMMAND,
    loadbalancer.COMMAND,
    extract.COMMAND,
    *index.COMMANDS,
    *store.COMMANDS,
    *auth.COMMANDS,
    *admin.COMMANDS,
    config.COMMAND,
)
#: what the subcommands of several words share as their first word, and its help
GROUPS: Final = {
    "store": "Look after a store.",
    "index": "Have work done behind the store.",
    "auth": "Make tokens and API keys.",
    "admin": "Administer running processes.",
}

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. A subcommand's flags are the settings that name it, then its own."""
    parser = argparse.ArgumentParser(prog="follower", description="Follower RPC nodes for Filecoin.")
    parser.add_argument("--version", action="version", version=f"follower {software_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="SUBCOMMAND", required=True)
    groups: dict[str, Subparsers] = {"": subparsers}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            doc = GROUPS[group]
            parent = subparsers.add_parser(group, help=doc, description=doc)
            groups[group] = parent.add_subparsers(metavar="SUBCOMMAND", required=True)
        sub = groups[group].add_parser(
            name,
            help=command.doc,
            description=command.doc,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
        for setting in SETTINGS:
            if setting.is_used_by(command.name):
                sub.add_argument(
                    setting.flag,
                    dest="flag_" + setting.name,
                    metavar=setting.name.rpartition("_")[2].upper(),
                    help=f"{setting.doc} (default {setting.default!r})".replace("%", "%%"),
                )
        if command.add_arguments is not None:
            command.add_arguments(sub)
        sub.set_defaults(run=command.run, command=command.name)
    return parser


def subcommand_parsers(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(name, parser) of each subcommand of `parser`; `name` stands before each."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, sub in group.choices.items():
            yield from subcommand_parsers(sub, f"{name} {word}".lstrip())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the result is the process's exit code (`follower.commands.command`)."""
    args = build_parser().parse_args(argv)
    flags = {name[5:]: value for name, value in vars(args).items() if name.startswith("flag_")}
    if args.config is None and os.environ.get(ENV_PREFIX + "CONFIG"):
        args.config = Path(os.environ[ENV_PREFIX + "CONFIG"])
    try:
        settings = load_settings(args.config, flags=flags, command=args.command)
    except SettingsError as error:
        print(f"follower: {error}", file=sys.stderr)
        return CANNOT_RUN
    set_up_log(settings)
    return _run_reporting_errors(args.run, settings, args)


def _run_reporting_errors(run: Run, settings: Settings, args: argparse.Namespace) -> int:
    from blockstore.errors import BadCar, DownloadFailed, StoreError, StoreUnavailable
    from chain.errors import ChainError

    try:
        return run(settings, args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return FAILED
    except (CannotRun, SettingsError) as error:
        report_failure(str(error))
        return CANNOT_RUN
    except (StoreUnavailable, BadCar, DownloadFailed) as error:
        report_failure(str(error))
        return FAILED
    except (StoreError, ChainError) as error:
        report_failure(str(error))
        return CANNOT_RUN
    except OSError as error:
        report_failure(str(error))
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
