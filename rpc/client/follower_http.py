"""HTTP to another follower: connections that are opened by the first request, and bodies of a bounded size."""

from __future__ import annotations

from typing import Any, Final

import aiohttp

#: seconds until a connection is there
CONNECT_SECONDS: Final = 10.0


class FollowerHttp:
    """The connections to one follower. `url`: http(s)://HOST:PORT. `token`: what it knows us by. `close` it.

    `connections`: at once. `seconds`: that a request may take; None: whoever asks bounds it.
    """

    def __init__(self, url: str, token: str, *, connections: int, seconds: float | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    def request(self, method: str, path: str, **options: Any) -> Any:
        """As `aiohttp.ClientSession.request`; follows no redirects, and unpacks nothing."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60),
                timeout=self._timeout,
                headers=self._headers,
                auto_decompress=False,
            )
        return self._session.request(method, self._url + path, allow_redirects=False, **options)

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def read_at_most(content: aiohttp.StreamReader, most: int) -> bytes:
    """A whole body, or its first `most` + 1 bytes where it is longer.

    One call of `StreamReader.read` gives what has come so far, not what was asked for.
    """
    data = bytearray()
    while len(data) <= most and (more := await content.read(most + 1 - len(data))):
        data += more
    return bytes(data)
