"""Bearer tokens: HS256 JSON web tokens whose payload is `{"Allow": ["read", …]}`, as Lotus makes them."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qs

import jwt
from aiohttp.web_request import BaseRequest

from rpc.permissions import ALL_PERMISSIONS
from rpc.server.gate.tenants import Tenants

#: verified tokens that are remembered
_REMEMBERED: Final = 1024


def sends(request: BaseRequest, authorization: bytes) -> bool:
    """Whether a request has this Authorization, "Bearer SECRET". The time does not tell how much of it is right."""
    sent = request.headers.get("Authorization", "").encode(errors="replace")
    return hmac.compare_digest(sent, authorization)


def make_token(secret: bytes, allow: Iterable[str]) -> str:
    """A token that allows these permissions. Errors: ValueError, for an unknown permission."""
    wanted = list(allow)
    unknown = set(wanted) - ALL_PERMISSIONS
    if unknown:
        raise ValueError(f"no such permission: {', '.join(sorted(unknown))}")
    return jwt.encode({"Allow": wanted}, secret, algorithm="HS256")


class Tokens:
    """Verifies tokens. Without a secret and `tenants` no token is looked at: every caller has the default permissions.

    A token may also be the API key of one of the tenants.
    """

    def __init__(self, secret: bytes | None, default: frozenset[str], tenants: Tenants | None = None) -> None:
        self._secret = secret
        self._tenants = tenants
        if tenants is not None:
            tenants.on_change = self._forget
        self._default = default
        self._known: OrderedDict[str, frozenset[str]] = OrderedDict()

    def permissions(self, authorization: str | None, query: bytes = b"") -> frozenset[str] | None:
        """What the caller may do, by the Authorization header or `?token=`; None for a bad token."""
        if self._secret is None and self._tenants is None:
            return self._default
        if not authorization:
            given = parse_qs(query.decode("latin-1")).get("token") if query else None
            if not given or not given[0]:
                return self._default
            authorization = "Bearer " + given[0]
        if not authorization.startswith("Bearer "):
            return None
        token = authorization[7:]
        found = self._known.get(token)
        if found is None:
            found = None if self._tenants is None else self._tenants.find(token)
            if found is None:
                found = self._verify(token)
            if found is not None:
                self._known[token] = found
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return found

    def _forget(self) -> None:
        """The tenants have changed."""
        self._known.clear()

    def _verify(self, token: str) -> frozenset[str] | None:
        if self._secret is None:
            return None
        try:
            # Lotus' tokens do not expire; one that says it does is not for here, where answers are remembered
            payload = jwt.decode(token, self._secret, algorithms=["HS256"], options={"verify_iat": False})
        except jwt.InvalidTokenError:
            return None
        allow = payload.get("Allow")
        if "exp" in payload or not isinstance(allow, list):
            return None
        return frozenset(item for item in allow if isinstance(item, str)) & ALL_PERMISSIONS
