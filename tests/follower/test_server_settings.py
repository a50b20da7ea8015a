"""What the settings make of the server's limits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from follower.settings import CannotRun, Settings, load_settings
from follower.worker import server_settings
from rpc.server.limits import ServerSettings


def settings(**flags: Any) -> Settings:
    return load_settings(None, {}, flags, "serve")


def test_the_defaults_are_the_servers_own() -> None:
    # a follower logs its requests; a server that a test starts does not
    made, own = server_settings(settings(request_log_level="off")), ServerSettings()
    assert {f.name: getattr(made, f.name) for f in fields(made)} == {f.name: getattr(own, f.name) for f in fields(own)}


def test_the_administration_needs_a_secret_or_trust(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="jwt_secret_file"):
        server_settings(settings(admin_listen="127.0.0.1:0"))
    server_settings(settings(admin_listen="127.0.0.1:0", admin_trust_loopback=True))
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    server_settings(settings(admin_listen="127.0.0.1:0", jwt_secret_file=str(secret)))
