"""TLS for clients: the server's certificate, which is read again when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 10.0


class ServerCertificate:
    """The certificate (PEM, with its chain) and its key, as a `context` for servers: TLS 1.2 and 1.3, HTTP/1.1.

    `client_authorities`: PEM file with certificates; then only clients connect whose own certificate one of these has
    signed. It is read once: a watch that added authorities could not take one away.

    Errors: OSError (a file cannot be read), ssl.SSLError (it is no certificate, or the key is another's).
    """

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None = None) -> None:
        self._files = certificate, key
        self._read_at = self._changed_at()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(*self._files, password=_refuse_password)
        if client_authorities is not None:
            self.context.load_verify_locations(client_authorities)
            self.context.verify_mode = ssl.CERT_REQUIRED

    def _changed_at(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files)

    async def watch(self, interval_seconds: float = _LOOK_SECONDS) -> None:
        """Read the files again when they change, until cancelled. New connections get the new certificate."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                changed_at = self._changed_at()
                if changed_at == self._read_at:
                    continue
                # a pair that does not fit must not replace the one in use: it is tried apart
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files, password=_refuse_password)
                self.context.load_cert_chain(*self._files, password=_refuse_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                # the two files are replaced one after the other: the next look may find both
                log.warning("the changed TLS certificate is not used: %s", error)
                continue
            self._read_at = changed_at
            log.info("new connections get the changed TLS certificate")


def _refuse_password() -> str:
    """Called for a key that is encrypted. OpenSSL would ask on the terminal."""
    raise ssl.SSLError("the key has a password")
