"""Where a shared store is and how to reach it: the parsed form of a `cassandra://` URL. Imports no driver."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from blockstore.errors import StoreError

FORM: Final = "cassandra://[user:password@]host[,host][:port]/keyspace[?tls=1&ca=FILE&cert=FILE&key=FILE]"
_FILES: Final = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca` holds the authorities that sign the servers' certificates.

    `cert` and `key` are the client's certificate chain and its key, both or neither.
    """

    ca: str
    cert: str = ""
    key: str = ""

    def texts(self) -> tuple[str, str, str]:
        """The contents of `ca`, `cert` and `key`, checked; "" for a file that is not named.

        Errors: StoreError, which names the parameter and the file, never what is in it.
        """
        ca, cert, key = (_read(name, getattr(self, name)) for name in _FILES)
        self.context()
        return ca, cert, key

    def context(self) -> ssl.SSLContext:
        """For Python's own sockets: servers must show a certificate of `ca`. Names in it are not compared.

        Errors: StoreError.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _read("ca", self.ca)
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, ValueError):
            raise StoreError(f"ca={self.ca}: no PEM file of certificates") from None
        if self.cert:
            _read("cert", self.cert)
            _read("key", self.key)
            try:
                # a key behind a password is refused: nobody is there to type it
                context.load_cert_chain(self.cert, self.key, password="")
            except (ssl.SSLError, ValueError, OSError):
                raise StoreError(
                    f"cert={self.cert} and key={self.key}: no PEM certificate and its key (without a password)"
                ) from None
        return context


def _read(name: str, path: str) -> str:
    """Errors: StoreError."""
    if not path:
        return ""
    try:
        return Path(path).read_text("ascii", "replace")
    except OSError as error:
        raise StoreError(f"{name}={path}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class CassandraAddress:
    """The hosts, the keyspace and the way in. `FORM` is its URL."""

    hosts: tuple[str, ...]
    port: int
    keyspace: str
    user: str = ""
    password: str = ""
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """The URL without credentials."""
        tls = "?tls=1" if self.tls else ""
        return f"cassandra://{','.join(self.hosts)}:{self.port}/{self.keyspace}{tls}"

    def __repr__(self) -> str:
        return f"CassandraAddress({self.url})"

    @classmethod
    def parse(cls, url: str) -> CassandraAddress:
        """Errors: StoreError, which never repeats the credentials."""
        scheme, _, rest = url.partition("://")
        credentials, at, rest = rest.rpartition("@")
        location, _, query = rest.partition("?")
        found = re.fullmatch(r"([^/:]+)(?::(\d{1,5}))?/([a-z][a-z0-9_]{0,47})", location)
        if scheme != "cassandra" or found is None or (at and ":" not in credentials):
            raise StoreError(f"{location!r} is not of the form {FORM}")
        user, _, password = credentials.partition(":")
        hosts = tuple(host for host in found[1].split(",") if host)
        if not hosts:
            raise StoreError(f"{location!r} names no host")
        return cls(hosts, int(found[2] or 9042), found[3], unquote(user), unquote(password), _tls(query))


def _tls(query: str) -> Tls | None:
    """The TLS parameters behind `?`. Errors: StoreError, which names the parameter."""
    values: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in ("tls", *_FILES):
            raise StoreError(f"a store URL has no parameter {unquote(name)[:40]!r}: there are tls, ca, cert and key")
        if name in values:
            raise StoreError(f"{name} stands twice in the store URL")
        values[name] = unquote(value)
    wanted = values.pop("tls", "0")
    if wanted not in ("0", "1"):
        raise StoreError("tls in a store URL is 1 or 0")
    if wanted == "0":
        if values:
            raise StoreError(f"{min(values)} in the store URL needs tls=1")
        return None
    if not values.get("ca"):
        raise StoreError("tls=1 in a store URL needs ca=FILE, the authority that signs the servers' certificates")
    if bool(values.get("cert")) != bool(values.get("key")):
        raise StoreError("cert and key in a store URL come together")
    return Tls(values["ca"], values.get("cert", ""), values.get("key", ""))
