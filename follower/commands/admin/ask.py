"""Asks the administration API that the settings name, and shows what each process answers."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from follower.commands.command import DONE, FAILED
from follower.setting_parsers import UNIX
from follower.settings import CannotRun, Settings, jwt_secret
from rpc.client.follower_http import read_at_most

_SECONDS: Final = 30.0
_MOST_BYTES: Final = 8 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all subcommands."""
    parser.add_argument("--bridge", action="store_true", help="ask the bridge at bridge_admin_listen")
    parser.add_argument("--process", default="", metavar="NAME", help='one process, as "worker 1"; without it all')
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a token that allows admin")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def add_node(parser: argparse.ArgumentParser) -> None:
    """The flags, and a full node."""
    add_arguments(parser)
    parser.add_argument("node", metavar="NODE", help="the node, by host and port")


def ask(settings: Settings, args: argparse.Namespace, method: str, **params: Any) -> int:
    """Ask, and print the answers. FAILED where a process refuses or does not answer. Errors: CannotRun, OSError."""
    if args.process:
        params["process"] = args.process
    answer = asyncio.run(_call(settings, args, method, params))
    error = answer.get("error")
    if error is not None:
        print(f"follower: {_text_of(error)}", file=sys.stderr)
        return FAILED
    found: dict[str, Any] = answer["result"]
    if args.json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        for name, one in found.items():
            shown = _text_of(one["error"]) if "error" in one else _shown(one["result"])
            print(f"{name}: {shown}")
    return FAILED if any("error" in one for one in found.values()) else DONE


async def _call(settings: Settings, args: argparse.Namespace, method: str, params: dict[str, Any]) -> dict[str, Any]:
    name = "bridge_admin_listen" if args.bridge else "admin_listen"
    listen: str = settings[name]
    if not listen:
        raise CannotRun(f"{name} is not set: it says where the processes to ask listen")
    connector: aiohttp.BaseConnector | None = None
    url = "http://localhost/"
    if listen.startswith(UNIX):
        connector = aiohttp.UnixConnector(listen.removeprefix(UNIX))
    else:
        tls = _tls(settings)
        connector = aiohttp.TCPConnector(ssl=tls) if tls is not None else None
        url = f"{'http' if tls is None else 'https'}://{listen}/"
    headers = {"Content-Type": "application/json", **_token(settings, args, listen)}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"admin.{method}", "params": params})
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session:
        try:
            async with session.post(url, data=body, headers=headers) as response:
                status, text = response.status, await read_at_most(response.content, _MOST_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{listen} does not answer ({type(error).__name__})") from None
    if status == 401:
        raise CannotRun(f"{listen} takes no caller without a token that allows admin: give --token-file")
    if status != 200:
        raise OSError(f"{listen} answers HTTP {status}")
    answer: dict[str, Any] = orjson.loads(text)
    return answer


def _token(settings: Settings, args: argparse.Namespace, listen: str) -> dict[str, str]:
    """The caller's token: of a file, or made where the secret can be read."""
    if args.token_file is not None:
        try:
            return {"Authorization": f"Bearer {args.token_file.read_text().strip()}"}
        except OSError as error:
            raise CannotRun(f"--token-file {args.token_file}: {error.strerror}") from None
    secret = None if listen.startswith(UNIX) else jwt_secret(settings)
    if secret is None:
        return {}
    from rpc.server.auth import make_token

    return {"Authorization": f"Bearer {make_token(secret, ['admin'])}"}


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """Trusts the authorities of this machine, and the certificate that the settings name."""
    if not settings["admin_tls_cert"]:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(settings["admin_tls_cert"])
    except (OSError, ssl.SSLError) as error:
        raise CannotRun(f"admin_tls_cert {settings['admin_tls_cert']}: {error.strerror}") from None
    return context


def _text_of(error: dict[str, Any]) -> str:
    data = error.get("data")
    return f"{error['message']}: {data}" if isinstance(data, str) else str(error["message"])


def _shown(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in result.items())


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value or "-"
    return orjson.dumps(value).decode()
