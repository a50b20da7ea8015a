"""Every method under every set of permissions, and tokens that are not what they seem."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import time
from typing import Any

import jwt
import orjson
import pytest

from rpc.context import Context
from rpc.errors import MethodError
from rpc.methods import register_all
from rpc.permissions import ALL_PERMISSIONS
from rpc.registry import REGISTRY, V0, V1, V2, Registry
from rpc.server.auth import Tokens, make_token
from rpc.server.dispatch import Dispatcher
from rpc.server.request import read_request
from tests.support.http_raw import post
from tests.support.paths import ROOT
from tests.support.wire_node import services
from tests.support.wire_server import call, node, soon

register_all()

SECRET = b"0123456789abcdef0123456789abcdef"
#: what Lotus wants for a method, where it is not "read": from the `perm` tags of its API structs
LOTUS: dict[str, dict[str, str]] = json.loads((ROOT / "tests" / "vectors" / "lotus_permissions.json").read_text())
#: this server writes nothing when it validates an index: it never backfills
OURS = {"Filecoin.ChainValidateIndex": "read"}
SETS = [
    frozenset(some) for size in range(5) for some in itertools.combinations(sorted(ALL_PERMISSIONS), size)
]  # fmt: skip


def test_each_method_wants_what_lotus_wants() -> None:
    wanted = {V0: {**LOTUS["v1"], **LOTUS.get("v0", {})}, V1: LOTUS["v1"], V2: LOTUS.get("v2", {})}
    different = {
        method.name: method.perm
        for version, perms in wanted.items()
        for method in REGISTRY
        if method.versions & version and method.perm != OURS.get(method.name, perms.get(method.name, "read"))
    }
    assert different == {}
    # the pushes, and what only an administrator may: the vectors are not empty
    assert {method.perm for method in REGISTRY} >= {"read", "write", "admin"}


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.usefixtures("any_arguments")
def test_a_method_is_refused_exactly_where_its_permission_is_missing(version: int) -> None:
    dispatcher = Dispatcher(services())
    # none of the handlers is called: what is judged is who gets there
    session: Any = object()  # some methods need a WebSocket
    checked = 0
    for name, method in REGISTRY.names((V0, V1, V2)[version]).items():
        for allowed in SETS:
            ctx = dispatcher.context(version, allowed)
            ctx.session = session
            request = read_request({"jsonrpc": "2.0", "id": 1, "method": name})
            if method.perm in allowed:
                assert dispatcher.resolve(ctx, request).method is method
            else:
                with pytest.raises(MethodError) as refused:
                    dispatcher.resolve(ctx, request)
                assert refused.value.message == (
                    f"missing permission to invoke '{method.field}' (need '{method.perm}')"
                )
                assert refused.value.code == 1
            checked += 1
    assert checked == 16 * len(REGISTRY.names((V0, V1, V2)[version]))


@pytest.fixture
def any_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are decoded before the permission is looked at, as in go-jsonrpc: here any will do."""
    monkeypatch.setattr("rpc.server.dispatch.decode_arguments", lambda method, request: [])


# --- tokens ----------------------------------------------------------------------------------------------------


def _unsigned(payload: dict[str, Any], algorithm: str) -> str:
    parts = ({"alg": algorithm, "typ": "JWT"}, payload)
    return ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=").decode() for part in parts) + "."


def _signed(payload: dict[str, Any], key: bytes) -> str:
    text = _unsigned(payload, "HS256")[:-1]
    return text + "." + base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).rstrip(b"=").decode()


def _bad_tokens() -> dict[str, str]:
    good = make_token(SECRET, ["read", "write"])
    head, payload, signature = good.split(".")
    more = base64.urlsafe_b64encode(b'{"Allow":["read","write","sign","admin"]}').rstrip(b"=").decode()
    everything = {"Allow": sorted(ALL_PERMISSIONS)}
    return {
        "alg none": _unsigned(everything, "none"),
        "alg None": _unsigned(everything, "None"),
        "alg none, signed": _unsigned(everything, "none") + signature,
        "alg HS512": jwt.encode(everything, SECRET + SECRET, algorithm="HS512"),
        "alg HS256, unsigned": _unsigned(everything, "HS256"),
        "another key": make_token(SECRET[::-1], ["admin"]),
        "an empty key": _signed(everything, b""),
        "another payload": f"{head}.{more}.{signature}",
        "a cut signature": good[:-4],
        "no signature": f"{head}.{payload}",
        "expired": jwt.encode({**everything, "exp": int(time.time()) - 60}, SECRET, algorithm="HS256"),
        "not yet": jwt.encode({**everything, "nbf": int(time.time()) + 600}, SECRET, algorithm="HS256"),
        "no list": jwt.encode({"Allow": "admin"}, SECRET, algorithm="HS256"),
        "nothing allowed": jwt.encode({"perm": ["admin"]}, SECRET, algorithm="HS256"),
        "no token": "not-a-token",
        "not ASCII": "\N{SNOWMAN}",
    }


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", _bad_tokens())
def test_a_bad_token_allows_nothing(name: str) -> None:
    bad = _bad_tokens()[name]
    tokens = Tokens(SECRET, frozenset({"read"}))
    for _ in range(2):  # what was refused is not remembered as good
        assert tokens.permissions(f"Bearer {bad}") is None
        assert tokens.permissions(None, f"token={bad}".encode()) is None


def test_a_token_allows_what_lotus_knows_alone() -> None:
    tokens = Tokens(SECRET, frozenset({"read"}))
    for allow, found in (
        (["read", "write"], {"read", "write"}),
        (["root", "admin", 7, None], {"admin"}),
        ([], set()),
    ):
        assert tokens.permissions("Bearer " + jwt.encode({"Allow": allow}, SECRET, algorithm="HS256")) == found


async def test_a_refusal_tells_nothing() -> None:
    tokens = {name: bad for name, bad in _bad_tokens().items() if bad.isascii()}
    async with node(jwt_secret=SECRET) as one:
        answers = set()
        for bad in tokens.values():
            for body in (call("Test.Write"), call("Test.Unknown"), b"no JSON"):
                answer = await soon(post(one.port, body, headers={"Authorization": f"Bearer {bad}"}))
                headers = {name: value for name, value in answer.headers.items() if name.lower() not in ("date",)}
                answers.add((answer.status, answer.body, tuple(sorted(headers.items()))))
                assert bad not in str(headers)
        # whatever is wrong, and whatever was asked: one answer
        assert len(answers) == 1
        ((status, body, _),) = answers
        assert (status, body) == (401, b"")


def test_an_extension_cannot_declare_an_unknown_permission() -> None:
    with pytest.raises(ValueError, match="permission"):

        @Registry().method("Test.Root", perm="root")
        async def root(ctx: Context) -> None:
            """Nothing."""
