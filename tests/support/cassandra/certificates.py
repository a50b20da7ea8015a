"""Certificates for a server that demands TLS of its clients: two authorities, made with openssl and keytool."""

from __future__ import annotations

import subprocess
from pathlib import Path

PASSWORD = "changeit"


def make_certificates(folder: Path) -> None:
    """Write PEM files of two authorities and their clients, and the server's PKCS12 stores, into `folder`.

    `ca.pem` signs `server.p12` and `client.pem`, `other-ca.pem` signs `other-client.pem`; `trusted.p12` holds `ca.pem`.
    """
    for prefix in ("", "other-"):
        ca = folder / f"{prefix}ca"
        _run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={prefix}authority",
            "-keyout", f"{ca}.key", "-out", f"{ca}.pem",
        )  # fmt: skip
        for name in ("server", "client"):
            _signed(folder, f"{prefix}{name}", ca)
    _run(
        "openssl", "pkcs12", "-export", "-in", str(folder / "server.pem"), "-inkey", str(folder / "server.key"),
        "-out", str(folder / "server.p12"), "-passout", f"pass:{PASSWORD}", "-name", "server",
    )  # fmt: skip
    _run(
        "keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", str(folder / "ca.pem"), "-storetype", "PKCS12",
        "-keystore", str(folder / "trusted.p12"), "-storepass", PASSWORD,
    )  # fmt: skip


def _signed(folder: Path, name: str, ca: Path) -> None:
    request = folder / f"{name}.csr"
    _run(
        "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
        "-keyout", str(folder / f"{name}.key"), "-out", str(request),
    )  # fmt: skip
    _run(
        "openssl", "x509", "-req", "-in", str(request), "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
        "-days", "2", "-out", str(folder / f"{name}.pem"),
    )  # fmt: skip


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
