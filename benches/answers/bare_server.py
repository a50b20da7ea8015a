"""A server that only sends: what event loop and kernel take for answers of these bytes, whoever makes them."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Iterable, Mapping

from rpc.server.http_head import HEAD_END


def answers_of(port: int, bodies: Iterable[bytes], *, takes_gzip: bool = False) -> dict[bytes, bytes]:
    """The whole answers of a server, head included, by the requests' bodies; each is asked three times.

    A method's first call is not kept, and the second makes what the third finds. `takes_gzip`: long ones come in that.
    """
    found: dict[bytes, bytes] = {}
    headers = {"Content-Type": "application/json"} | ({"Accept-Encoding": "gzip"} if takes_gzip else {})
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for body in bodies:
        for _ in range(3):
            connection.request("POST", "/rpc/v1", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        head = b"".join(f"{name}: {value}\r\n".encode() for name, value in answer.getheaders())
        found[body] = b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (head, text)
    connection.close()
    return found


def serving_bare(answers: Mapping[bytes, bytes]) -> Callable[[int], None]:
    """What a server process runs that looks a request's body up and sends its answer as it stands.

    It writes at the end of a turn of the loop, as the follower does. Each request must come in one piece.
    """

    def run(port: int) -> None:
        import uvloop

        async def main() -> None:
            loop = asyncio.get_running_loop()
            outbox: list[tuple[asyncio.Transport, bytes]] = []

            def flush() -> None:
                for transport, answer in outbox:
                    transport.write(answer)
                outbox.clear()

            class Connection(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    self.transport: asyncio.Transport = transport  # type: ignore[assignment]

                def data_received(self, data: bytes) -> None:
                    if not outbox:
                        loop.call_soon(flush)
                    outbox.append((self.transport, answers[data[data.find(HEAD_END) + 4 :]]))

            server = await loop.create_server(Connection, "127.0.0.1", port)
            await server.serve_forever()

        uvloop.run(main())

    return run
