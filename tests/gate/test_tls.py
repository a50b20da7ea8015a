"""TLS for clients: HTTP and WebSocket, beside the plain port, with a certificate that changes."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
from pathlib import Path

import aiohttp
import orjson
import pytest

from follower.settings import CannotRun, SettingsError, load_settings
from follower.worker import server_certificate
from rpc.server.gate.tls import ServerCertificate
from tests.support.wire_server import ECHO, node, soon


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days"]
    words += ["1", "-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}"]
    subprocess.run([*words, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


async def test_calls_and_websockets_over_tls(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    trusting = ssl.create_default_context(cafile=str(cert))
    # with a PROXY header allowed on the plain port, none is looked for inside TLS
    async with node(proxy_protocol=True, trusted_proxies=("10.0.0.0/8",)) as one:
        context = ServerCertificate(cert, key).context
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        _, port = await one.server.listen("127.0.0.1", 0, tls=context)
        # the server is still known by its plain port
        assert one.port == one.server.port != port
        connector = aiohttp.TCPConnector(ssl=trusting, local_addr=("127.0.0.5", 0), family=socket.AF_INET)
        async with aiohttp.ClientSession(connector=connector) as session:
            for number in range(3):
                async with session.post(f"https://127.0.0.1:{port}/rpc/v1", data=ECHO % (1, number)) as answer:
                    assert orjson.loads(await answer.read())["result"] == number
            assert one.server.dispatcher.admission.connections.by_client["127.0.0.5"] == 1
            long = b" " * 200_000
            async with session.post(f"https://127.0.0.1:{port}/rpc/v1", data=long + ECHO % (1, 7)) as answer:
                assert orjson.loads(await answer.read())["result"] == 7
            async with session.ws_connect(f"wss://127.0.0.1:{port}/rpc/v1") as ws:
                await ws.send_bytes(ECHO % (2, 8))
                assert orjson.loads((await soon(ws.receive())).data)["result"] == 8
            async with session.get(f"https://127.0.0.1:{port}/livez") as answer:
                assert answer.status == 200
        # the plain port beside it; plain text at the TLS port is no request
        async with aiohttp.ClientSession() as session:
            async with session.post(one.server.url, data=ECHO % (1, 5)) as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await session.post(f"http://127.0.0.1:{port}/rpc/v1", data=ECHO % (1, 5))


async def _shown(port: int) -> bytes:
    """The certificate that a new connection gets, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(found, bytes)
    return found


async def test_a_changed_certificate_is_used_and_half_of_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cert, key = make_certificate(tmp_path, "one")
    other_cert, other_key = make_certificate(tmp_path, "two")
    first, second = (ssl.PEM_cert_to_DER_cert(one.read_text()) for one in (cert, other_cert))
    certificate = ServerCertificate(cert, key)
    watching = asyncio.create_task(certificate.watch(0.01))
    async with node() as one:
        _, port = await one.server.listen("127.0.0.1", 0, tls=certificate.context)
        assert await _shown(port) == first
        cert.write_bytes(other_cert.read_bytes())
        async with asyncio.timeout(30):
            while "is not used" not in caplog.text:
                await asyncio.sleep(0.01)
        assert await _shown(port) == first
        key.write_bytes(other_key.read_bytes())
        async with asyncio.timeout(30):
            while await _shown(port) != second:
                await asyncio.sleep(0.01)
        watching.cancel()


async def test_only_clients_with_a_certificate_of_the_authorities_connect(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    # a certificate that signs itself is its own authority
    known, known_key = make_certificate(tmp_path, "known")
    stranger, stranger_key = make_certificate(tmp_path, "stranger")

    async def answer_to(own: tuple[Path, Path] | None) -> int:
        trusting = ssl.create_default_context(cafile=str(cert))
        if own is not None:
            trusting.load_cert_chain(*own)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
            session.post(f"https://127.0.0.1:{port}/rpc/v1", data=ECHO % (1, 1)) as answer,
        ):
            return answer.status

    async with node() as one:
        _, port = await one.server.listen("127.0.0.1", 0, tls=ServerCertificate(cert, key, known).context)
        assert await answer_to((known, known_key)) == 200
        for own in (None, (stranger, stranger_key)):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await answer_to(own)
        assert await answer_to((known, known_key)) == 200


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    _, other_key = make_certificate(tmp_path, "two")

    def given(**values: str) -> ServerCertificate | None:
        return server_certificate(load_settings(environment={}, flags=values, command="serve"))

    assert given() is None
    assert given(tls_listen="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key)) is not None
    with pytest.raises(CannotRun, match="needs tls_cert and tls_key"):
        given(tls_listen="127.0.0.1:0", tls_cert=str(cert))
    for wrong in (str(other_key), str(tmp_path / "none")):
        with pytest.raises(CannotRun, match="tls_cert, tls_key"):
            given(tls_listen="127.0.0.1:0", tls_cert=str(cert), tls_key=wrong)
    with pytest.raises(CannotRun, match="tls_client_ca needs tls_listen"):
        given(tls_client_ca=str(cert))
    for wrong in (str(other_key), str(tmp_path / "none")):
        with pytest.raises(CannotRun, match="tls_client_ca"):
            given(tls_listen="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key), tls_client_ca=wrong)
    for origin in ("app.example.org", "https://a\r\nX: y"):
        with pytest.raises(SettingsError, match="cors_origin"):
            load_settings(environment={}, flags={"cors_origin": origin}, command="serve")
