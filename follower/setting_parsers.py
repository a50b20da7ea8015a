"""How a setting's value is read from a flag, an environment variable or a TOML file.

Each parser raises ValueError with what the value must be; `follower.settings` puts the setting's name before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from blockstore.archive.named import shown_place
from blockstore.errors import BadExtension
from blockstore.open import store_schemes
from blockstore.store_url import public_url
from rpc.client.node_info import parse_node_info
from rpc.server.client_address import networks

#: what stands before the path of a Unix socket
UNIX: Final = "unix:"


def parse_text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def parse_origin(value: Any) -> str:
    """What stands in Access-Control-Allow-Origin: *, an origin, or nothing."""
    text = parse_text(value)
    if text not in ("", "*") and not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError("must be *, an origin such as https://app.example.org, or empty")
    return text


def whole_number(minimum: int, maximum: int) -> Callable[[Any], int]:
    """A parser of whole numbers in a range, both ends included."""

    def parse(value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if isinstance(value, float) and number != value:
            raise ValueError("must be a whole number")
        if not minimum <= number <= maximum:
            raise ValueError(f"must be from {minimum} to {maximum}")
        return number

    return parse


def whole_number_or_all(minimum: int, maximum: int) -> Callable[[Any], int | None]:
    """As `whole_number`; the word "all" is None."""
    whole = whole_number(minimum, maximum)

    def parse(value: Any) -> int | None:
        if value is None or value == "all":
            return None
        try:
            return whole(value)
        except ValueError as error:
            raise ValueError(f"{error}, or all") from None

    return parse


def number_or_all_text(value: int | None) -> str:
    """The value of such a parser, as it is written."""
    return "all" if value is None else str(value)


def number(minimum: float, maximum: float) -> Callable[[Any], float]:
    """A parser of numbers in a range, both ends included."""

    def parse(value: Any) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError):
            raise ValueError("must be a number") from None
        if not minimum <= found <= maximum:
            raise ValueError(f"must be from {minimum:g} to {maximum:g}")
        return found

    return parse


def one_of(*choices: str) -> Callable[[Any], str]:
    """A parser that takes these words only."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def parse_boolean(value: Any) -> bool:
    """true or false; 1, yes and on, 0, no and off too."""
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "true", "yes", "on"):
        return True
    if str(value).lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def parse_store(value: Any) -> str:
    """A store URL; what follows the scheme is read when the store is opened."""
    text = parse_text(value)
    scheme, sep, rest = text.partition("://")
    if not sep or not rest:
        raise ValueError("must be a store URL such as lmdb:///var/lib/follower")
    try:
        known = store_schemes()
    except BadExtension as error:
        raise ValueError(f"cannot be read: {error}") from None
    if scheme not in known:
        raise ValueError(f"must be a store URL; the schemes known here are {', '.join(known)}")
    return text


def parse_listen(value: Any) -> str:
    """HOST:PORT; an IPv6 host in brackets."""
    text = parse_text(value)
    host, sep, port = text.rpartition(":")
    if not sep or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT such as 127.0.0.1:1234")
    return text


def parse_optional_listen(value: Any) -> str:
    """HOST:PORT, or nothing."""
    return "" if value == "" else parse_listen(value)


def parse_admin_listen(value: Any) -> str:
    """HOST:PORT, unix:PATH, or nothing."""
    if not isinstance(value, str) or not value.startswith(UNIX):
        return parse_optional_listen(value)
    if value == UNIX:
        raise ValueError("must be HOST:PORT or unix:PATH")
    return value


def parse_networks(value: Any) -> str:
    """IP networks, separated by commas; a TOML list too."""
    items = value if isinstance(value, list) else parse_text(value).split(",")
    text = ",".join(parse_text(item).strip() for item in items)
    try:
        networks(text)
    except ValueError as error:
        raise ValueError(f"must be networks such as 10.0.0.0/8, separated by commas: {error}") from None
    return text


def parse_nodes(value: Any) -> str:
    """Full nodes, separated by commas; a TOML list too. The errors never repeat the text: it may hold a token."""
    text = parse_text(",".join(parse_text(item) for item in value) if isinstance(value, list) else value)
    if text:
        parse_node_info(text)
    return text


def parse_method_seconds(value: Any) -> str:
    """NAME=SECONDS, separated by commas; a TOML list too."""
    text = ",".join(parse_text(item) for item in value) if isinstance(value, list) else parse_text(value)
    try:
        method_seconds(text)
    except ValueError:
        raise ValueError("must be NAME=SECONDS such as Filecoin.EthCall=20, separated by commas") from None
    return text


def method_seconds(text: str) -> dict[str, float]:
    """The parsed setting: seconds by method. Errors: ValueError."""
    found: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, seconds = item.partition("=")
        found[name.strip()] = number(0.1, 86_400)(seconds)
        if not name.strip():
            raise ValueError("no name")
    return found


#: the services that ChainSafe runs for both networks, as the documentation of Lotus and of Forest names them
DEFAULT_SNAPSHOT_URLS: Final = (
    "mainnet=https://forest-archive.chainsafe.dev/latest/mainnet/,"
    "calibnet=https://forest-archive.chainsafe.dev/latest/calibnet/"
)


def parse_http_urls(value: Any) -> str:
    """URLs of servers without a path, separated by commas; a TOML list too."""
    text = parse_text(",".join(parse_text(item) for item in value) if isinstance(value, list) else value)
    for item in filter(None, text.split(",")):
        parts = urlsplit(item.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
            raise ValueError("must be http://HOST:PORT, separated by commas, without a path or a name")
    return text


def parse_endpoint(value: Any) -> str:
    """A URL, or an empty text. The error never repeats it: it may hold a password."""
    text = parse_text(value)
    if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("must be a URL, http://HOST:PORT or https://HOST:PORT")
    return text


def parse_snapshot_urls(value: Any) -> str:
    """NAME=URL, separated by commas; a TOML list too. The errors never repeat the text: it may hold a password."""
    text = parse_text(",".join(parse_text(item) for item in value) if isinstance(value, list) else value)
    for item in filter(None, text.split(",")):
        name, _, url = item.strip().partition("=")
        if not name.isalnum() or not url.startswith(("https://", "http://")):
            raise ValueError("must be NAME=URL, separated by commas")
    return text


def snapshot_urls(text: str) -> dict[str, str]:
    """The parsed setting: URL by name."""
    pairs = (item.strip().partition("=") for item in text.split(",") if item.strip())
    return {name: url for name, _, url in pairs}


def public_snapshot_urls(text: str) -> str:
    """The setting without users, passwords and queries."""
    return ",".join(f"{name}={public_url(url.partition('?')[0])}" for name, url in snapshot_urls(text).items())


def node_names(text: str) -> str:
    """The names of the nodes (host and port), without tokens, users and queries."""
    return ",".join(info.name for info in parse_node_info(text)) if text else ""


def parse_archives(value: Any) -> str:
    """Paths and URLs, separated by commas; a TOML list too. The errors never repeat the text: it may hold a token."""
    text = parse_text(",".join(parse_text(item) for item in value) if isinstance(value, list) else value)
    for place in split_archives(text):
        if "://" in place and not place.startswith(("http://", "https://")):
            raise ValueError("must be paths or http(s) URLs, separated by commas")
    return text


def split_archives(text: str) -> list[str]:
    """The archives that the setting names, in its order, each once."""
    return list(dict.fromkeys(place.strip() for place in text.split(",") if place.strip()))


def archive_names(text: str) -> str:
    """The archives' names: of a URL host and path alone."""
    return ",".join(shown_place(place) for place in split_archives(text))
