"""Where the administration API is served: a Unix socket, this machine, or beyond it with tokens and TLS."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from follower.administration.group import Member, OtherProcess, group_methods
from follower.setting_parsers import UNIX
from follower.settings import CannotRun, Settings, jwt_secret, split_listen
from follower.supervisor import Child
from rpc.server.admin import AdminSite, is_loopback
from rpc.server.auth import Tokens

#: the settings that say where: of a follower (or of all that `follower up` runs), and of a bridge that runs apart
FOLLOWER: Final = "admin_listen"
BRIDGE: Final = "bridge_admin_listen"


def check_endpoint(settings: Settings, name: str) -> None:
    """Refuse what strangers could reach. `name`: `FOLLOWER` or `BRIDGE`. Errors: CannotRun, which says what to set."""
    listen: str = settings[name]
    if not listen or listen.startswith(UNIX):
        return
    has_secret = jwt_secret(settings) is not None
    host, _ = split_listen(listen)
    if host == "localhost" or is_loopback(host):
        if not has_secret and not settings["admin_trust_loopback"]:
            raise CannotRun(f"{name} needs jwt_secret_file, for its callers' tokens, or admin_trust_loopback")
        return
    missing = [] if has_secret else ["jwt_secret_file, for its callers' tokens"]
    if not settings["admin_tls_cert"] or not settings["admin_tls_key"]:
        missing.append("admin_tls_cert and admin_tls_key, so that nobody reads them")
    if missing:
        raise CannotRun(
            f"{name} is {listen}, which other machines can reach: it needs {', and '.join(missing)}. Or listen at "
            "127.0.0.1:PORT or unix:PATH"
        )


@contextlib.asynccontextmanager
async def administered(settings: Settings, name: str, members: Sequence[Member]) -> AsyncIterator[None]:
    """Serve the administration API of these processes within the block, where the settings ask for it.

    Errors: CannotRun, OSError.
    """
    listen: str = settings[name]
    if not listen:
        yield
        return
    check_endpoint(settings, name)
    secret = jwt_secret(settings)
    site = AdminSite(
        group_methods(members),
        tokens=None if secret is None else Tokens(secret, frozenset()),
        hosts=settings["admin_hosts"].split(","),
        trusts_loopback=settings["admin_trust_loopback"],
    )
    if listen.startswith(UNIX):
        await site.listen_unix(Path(listen.removeprefix(UNIX)))
    else:
        await site.listen(*split_listen(listen), tls=_tls(settings))
    try:
        yield
    finally:
        await site.close()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings["admin_tls_cert"]:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings["admin_tls_cert"], settings["admin_tls_key"] or None)
    except (OSError, ssl.SSLError) as error:
        raise CannotRun(
            f"admin_tls_cert {settings['admin_tls_cert']}: {error.strerror or 'it cannot be used'}"
        ) from None
    return context


def let_children_answer(settings: Settings, children: Sequence[Child], folder: Path) -> list[OtherProcess]:
    """Have the children serve their own API at sockets in `folder`, for the process that supervises them."""
    if not settings[FOLLOWER]:
        return []
    check_endpoint(settings, FOLLOWER)
    members: list[OtherProcess] = []
    for child in children:
        if child.arguments[0] not in ("serve", "bridge"):
            continue
        path = folder / f"{child.name.replace(' ', '-')}.sock"
        listen = f"{UNIX}{path}"
        child.environment = {
            **child.environment, "FOLLOWER_ADMIN_LISTEN": listen, "FOLLOWER_BRIDGE_ADMIN_LISTEN": listen,
        }  # fmt: skip
        members.append(OtherProcess(child.name, path))
    return members
