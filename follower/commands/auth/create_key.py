"""`follower auth create-key`: an API key for a tenant."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
import sys
from typing import Final

from follower.commands.command import DONE, Command
from follower.settings import CannotRun, Settings

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_BYTES: Final = 32


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the tenant's entry for `tenants_file`, and the key on standard error: a file gets the entry alone."""
    if not _NAME.fullmatch(args.name):
        raise CannotRun("a tenant's name has letters, digits, - and _, 64 at most")
    key = secrets.token_urlsafe(_KEY_BYTES)
    print(f"[tenant.{args.name}]")
    print(f'key_sha256 = ["{hashlib.sha256(key.encode()).hexdigest()}"]')
    print(f"tokens_per_second = {args.tokens_per_second:g}")
    print(f"the key, which is shown once: {key}", file=sys.stderr)
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tenant's name, `--tokens-per-second`."""
    parser.add_argument("name", metavar="NAME", help="the tenant")
    parser.add_argument("--tokens-per-second", type=float, default=0.0, metavar="N", help="its quota; 0: none")


COMMAND: Final = Command(
    "auth create-key",
    "Make an API key, and print the tenant's entry for tenants_file.",
    "follower auth create-key explorer --tokens-per-second 200 >> /etc/lotus-follower/tenants.toml",
    run,
    add_arguments,
)
