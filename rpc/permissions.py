"""The permissions of Lotus' API: what a caller may do. Source: go-jsonrpc `auth`, Lotus `api/permissioned.go`."""

from __future__ import annotations

from typing import Final

#: what a caller without a token may do
DEFAULT_PERMISSIONS: Final = frozenset({"read"})
ALL_PERMISSIONS: Final = frozenset({"read", "write", "sign", "admin"})
