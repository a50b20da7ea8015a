"""`follower auth`: tokens and keys that a server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from follower.cli import main
from follower.commands.command import CANNOT_RUN
from follower.settings import CannotRun, load_settings
from follower.worker import server_settings
from rpc.server.auth import Tokens
from rpc.server.gate.tenants import Tenants, tenant_of

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("perm", "allows"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", {"read", "write", "sign", "admin"})],
)
def test_a_token_allows_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], perm: str, allows: set[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    assert main(["auth", "create-token", "--jwt-secret-file", str(secret), "--perm", perm]) == 0
    token = capsys.readouterr().out.strip()
    assert Tokens(SECRET.encode(), frozenset()).permissions(f"Bearer {token}") == allows


def test_without_a_secret_there_is_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["auth", "create-token", "--perm", "read"]) == CANNOT_RUN
    assert "jwt_secret_file is not set" in capsys.readouterr().err


def test_a_key_opens_its_tenants_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["auth", "create-key", "explorer", "--tokens-per-second", "200"]) == 0
    shown = capsys.readouterr()
    key = shown.err.strip().rpartition(" ")[2]
    assert len(key) >= 43 and key not in shown.out
    path = tmp_path / "tenants.toml"
    path.write_text(shown.out)
    tenants = Tenants(path)
    tenants.load()
    tenant = tenant_of(tenants.find(key))
    assert tenant is not None and tenant.bucket is not None
    assert (tenant.name, tenant.bucket.rate, set(tenant.permissions)) == ("explorer", 200, {"read"})
    assert main(["auth", "create-key", 'x"]\n[tenant.y']) == CANNOT_RUN


def test_settings_make_the_gate(tmp_path: Path) -> None:
    methods, tenants = tmp_path / "methods", tmp_path / "tenants.toml"
    methods.write_text("!Filecoin.StateCompute\n")
    tenants.write_text("[tenant.a]\n")
    given = {"method_filter_file": str(methods), "tenants_file": str(tenants), "rate_limit": "50"}
    made = server_settings(load_settings(None, {}, {**given, "default_permission": "none"}, "serve"))
    assert made.gate is not None and made.tenants is not None
    assert (made.gate.rate_limit, made.gate.methods.denied) == (50, ("Filecoin.StateCompute",))
    assert made.default_permissions == frozenset()
    # a file that is not there, or not right, is no reason to serve without it
    for name, text in (("method_filter_file", "no name at all"), ("tenants_file", "[tenant.a]\nkey = 5")):
        for path, said in ((tmp_path / "absent", "No such file"), (tmp_path / "bad", "")):
            (tmp_path / "bad").write_text(text)
            with pytest.raises(CannotRun, match=f"{name} .*{said}"):
                server_settings(load_settings(None, {}, {name: str(path)}, "serve"))
