"""`follower auth create-token`: a token as Lotus makes it."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.command import DONE, Command
from follower.settings import CannotRun, Settings, jwt_secret

#: each includes those before it, as in `lotus auth create-token`
_PERMISSIONS: Final = ("read", "write", "sign", "admin")


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the token."""
    # imported here: they take longer than most subcommands run
    from rpc.server.auth import make_token

    secret = jwt_secret(settings)
    if secret is None:
        raise CannotRun("jwt_secret_file is not set: make one with `openssl rand -hex 32 > FILE`")
    print(make_token(secret, _PERMISSIONS[: _PERMISSIONS.index(args.perm) + 1]))
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--perm`."""
    parser.add_argument("--perm", choices=_PERMISSIONS, required=True, help="each includes those before it")


COMMAND: Final = Command(
    "auth create-token",
    "Print a token that followers with this jwt_secret_file take.",
    "follower auth create-token --jwt-secret-file /etc/lotus-follower/jwt.secret --perm write",
    run,
    add_arguments,
)
