"""Hiding secrets in texts for people: a second line of defence, for no secret belongs in a log or an error.

What is hidden: the secrets that the settings hold, wherever they stand, and what looks like a secret: users and
passwords of URLs, tokens before a node's address, JSON web tokens, and values behind names like `token=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN: Final = "…"
#: shorter secrets are hidden by their place alone: the texts that they are would vanish everywhere
_SHORTEST: Final = 6
#: parts of a path and values of a query that are as long may be a provider's key
_SHORTEST_GUESSED: Final = 10
#: schemes of URLs whose paths may hold a key
_WITH_KEYS: Final = frozenset({"http", "https", "ws", "wss"})
_LOOKS_SECRET: Final = re.compile(
    # user and password of a URL, whatever they hold
    r"(?<=://)[^\s\"'<>]{0,1000}@"
    # a JSON web token
    r"|\beyJ[\w-]{1,512}\.[\w-]+(?:\.[\w-]+)?"
    # TOKEN:ADDRESS
    r"|(?<![\w.~+/=:-])[\w.~+/=-]{6,}(?=:(?:/(?:ip4|ip6|dns|dns4|dns6|dnsaddr)/|https?://|wss?://))"
    # names of secrets, as in a query, a header, a dictionary or a settings file
    r"|(?i:(?<=bearer )|(?<=basic )|(?<=bearer%20)|(?<=bearer\+))[^\s\"'&,;]+"
    r"|(?i:(?<![./\w-])(?P<name>[\w-]{0,40}(?:token|passw(?:or)?d|secret|api_?-?key|authorization)[\"']?\s{0,2}[=:]\s{0,2}"
    r"(?:(?:bearer|basic)\s)?[\"']?))(?P<value>[^\s\"'&,;…]+)"
)
_known: dict[str, None] = {}
_known_pattern: re.Pattern[str] | None = None


def know_secrets(texts: Iterable[str]) -> None:
    """Hide these texts from now on, in the forms that URLs and Python's `repr` give them too."""
    global _known_pattern
    for text in texts:
        if len(text) >= _SHORTEST:
            for plain in (text, unquote(text)):
                for form in (plain, quote(plain), quote(plain, safe=""), repr(plain)[1:-1]):
                    _known[form] = None
    if _known:
        longest_first = sorted(_known, key=len, reverse=True)
        _known_pattern = re.compile("|".join(re.escape(text) for text in longest_first))


def hide_secrets(text: str) -> str:
    """The text with `HIDDEN` for each secret."""
    if _known_pattern is not None:
        text = _known_pattern.sub(HIDDEN, text)
    return _LOOKS_SECRET.sub(_replaced, text)


def _replaced(found: re.Match[str]) -> str:
    if found["name"] is not None:
        return f"{found['name']}{HIDDEN}"
    return f"{HIDDEN}@" if found[0].endswith("@") else HIDDEN


def url_secrets(url: str) -> list[str]:
    """What may be secret in a URL, TOKEN:URL or TOKEN:multiaddr: token, password, long parts of path and query."""
    found: list[str] = []
    token, separator, rest = url.partition(":")
    if separator and token and not rest.startswith("//"):
        found.append(token)
        url = rest
    try:
        parts = urlsplit(url)
    except ValueError:
        return found
    userinfo = parts.netloc.rpartition("@")[0]
    found += [userinfo.partition(":")[2], userinfo]
    guessed = [value for _, value in parse_qsl(parts.query)]
    if parts.scheme in _WITH_KEYS:
        guessed += parts.path.split("/")
    found += [text for text in guessed if len(text) >= _SHORTEST_GUESSED]
    return [text for text in found if text]
