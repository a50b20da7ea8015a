"""Store URLs as people may see them: without secrets. Imports no driver."""

from __future__ import annotations

from typing import Final

#: schemes whose URL holds nothing but a path or a name
_PLAIN: Final = ("lmdb", "memory")
#: the schemes of the stores here; other packages may add more
SCHEMES: Final = (*_PLAIN, "cassandra")


def public_url(url: str) -> str:
    """`url` without credentials, for logs, errors, `follower config` and status pages.

    Everything before the last `@` is dropped, so that a URL with a mistake shows no part of its password either.
    Paths of TLS files stay. A text that is no URL is shown as it is, up to the same rule.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _PLAIN:
        return url
    if not separator:
        scheme, rest = "", url
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
