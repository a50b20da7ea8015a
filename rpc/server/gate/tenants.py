"""Tenants: API keys with a quota, permissions and a list of methods each, in a TOML file.

    [tenant.explorer]
    key_sha256 = ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    tokens_per_second = 200      # 0: no quota
    burst = 400
    permissions = ["read"]
    methods = ["Filecoin.*", "!Filecoin.StateCall"]

The file holds no key, only SHA-256 digests: keys are long and random, so that nobody finds them by trying.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from rpc.permissions import ALL_PERMISSIONS, DEFAULT_PERMISSIONS
from rpc.server.gate.method_list import MethodList
from rpc.server.gate.token_bucket import MakeBucket, TokenBucket, own_bucket

log = logging.getLogger("follower.rpc")

_FIELDS: Final = frozenset({"key_sha256", "tokens_per_second", "burst", "permissions", "methods"})
#: seconds between two looks at the file
_LOOK_SECONDS: Final = 1.0
_MAX_FILE: Final = 16 << 20


class Tenant:
    """One tenant. `bucket`: None for no quota."""

    __slots__ = ("bucket", "methods", "name", "permissions")

    def __init__(self, name: str, permissions: Iterable[str], methods: MethodList, bucket: TokenBucket | None) -> None:
        self.name = name
        self.permissions = TenantPermissions(permissions)
        self.permissions.tenant = self
        self.methods = methods
        self.bucket = bucket

    @property
    def account(self) -> str:
        """Whose share of the budgets it uses: its own, from whatever address it comes."""
        return f"tenant {self.name}"


class TenantPermissions(frozenset[str]):
    """The permissions of a caller who has shown a tenant's key."""

    tenant: Tenant


def tenant_of(permissions: frozenset[str] | None) -> Tenant | None:
    """The tenant whose permissions these are."""
    return permissions.tenant if isinstance(permissions, TenantPermissions) else None


def account_of(permissions: frozenset[str] | None, address: str) -> str:
    """Whose shares a request uses: the tenant's, else those of the address."""
    return permissions.tenant.account if isinstance(permissions, TenantPermissions) else address


class Tenants:
    """The tenants of a file, read again when it changes."""

    def __init__(self, path: Path, make_bucket: MakeBucket = own_bucket) -> None:
        self._path = path
        self._make_bucket = make_bucket
        self._by_digest: dict[bytes, Tenant] = {}
        self._seen: object = None
        #: called when the tenants have changed
        self.on_change: Callable[[], object] = lambda: None

    def load(self) -> None:
        """Read the file. Tenants whose quota is as before keep what they have used. Errors: OSError, ValueError."""
        self._seen = self._stamp()
        with self._path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise ValueError("the file is too long")
        before = {tenant.name: tenant for tenant in self._by_digest.values()}
        self._by_digest = _parse(tomllib.loads(text.decode()), before, self._make_bucket)
        self.on_change()

    def find(self, key: str) -> TenantPermissions | None:
        """The permissions that a key gives; None for an unknown one."""
        tenant = self._by_digest.get(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
        return None if tenant is None else tenant.permissions

    async def watch(self) -> None:
        """Read the file again whenever it has changed, until cancelled. A bad file changes nothing.

        It is read when two looks find it alike: an editor that empties it first takes no tenant's key away.
        """
        before: object = self._seen
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                found = self._stamp()
                if found != self._seen and found == before:
                    self.load()
                    log.info("the tenants were read again")
                before = found
            except (OSError, ValueError, RecursionError) as error:
                log.error("the tenants stay as they were: %s", _told(error))

    def _stamp(self) -> object:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


def _told(error: Exception) -> str:
    return error.strerror or "the file cannot be read" if isinstance(error, OSError) else str(error)


def _parse(document: Mapping[str, Any], before: Mapping[str, Tenant], make_bucket: MakeBucket) -> dict[bytes, Tenant]:
    """The tenants by the digest of their keys. Errors: ValueError, which names the tenant and no key."""
    table = document.get("tenant", {})
    if set(document) - {"tenant"} or not isinstance(table, dict):
        raise ValueError("the file holds tables named tenant.NAME and nothing else")
    found: dict[bytes, Tenant] = {}
    for name, fields in table.items():
        if not isinstance(fields, dict) or set(fields) - _FIELDS:
            raise ValueError(f"tenant {name}: a tenant has the fields {', '.join(sorted(_FIELDS))}")
        try:
            tenant = _tenant(name, fields, before.get(name), make_bucket)
            digests = [bytes.fromhex(digest) for digest in _texts(fields.get("key_sha256", []))]
        except (TypeError, ValueError) as error:
            raise ValueError(f"tenant {name}: {error}") from None
        for digest in digests:
            if len(digest) != hashlib.sha256().digest_size:
                raise ValueError(f"tenant {name}: key_sha256 is no SHA-256 digest")
            if digest in found:
                raise ValueError(f"tenant {name}: one of its keys is that of tenant {found[digest].name}")
            found[digest] = tenant
    return found


def _tenant(name: str, fields: Mapping[str, Any], before: Tenant | None, make_bucket: MakeBucket) -> Tenant:
    permissions = _texts(fields.get("permissions", sorted(DEFAULT_PERMISSIONS)))
    if set(permissions) - ALL_PERMISSIONS:
        raise ValueError(f"permissions are of {', '.join(sorted(ALL_PERMISSIONS))}")
    rate = _number("tokens_per_second", fields.get("tokens_per_second", 0))
    burst = _number("burst", fields.get("burst", 2 * rate))
    bucket = None
    if rate:
        bucket = make_bucket(f"tenant {name}", rate, max(burst, 1.0))
        known = None if before is None else before.bucket
        if known is not None and (known.rate, known.burst) == (bucket.rate, bucket.burst):
            bucket = known
    return Tenant(name, permissions, MethodList.parse(_texts(fields.get("methods", []))), bucket)


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1e9:
        raise ValueError(f"{name} is a number from 0 to 1e9")
    return float(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("keys, permissions and methods are lists of texts")
    return value
