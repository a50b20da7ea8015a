"""What is told of one answered request or call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from rpc.context import Context
from rpc.json_wire import Text
from rpc.observe.call_record import LOCAL
from rpc.server.gate.tenants import tenant_of
from rpc.services import Head

#: the status of a call whose client has gone, or has cancelled it; nginx has the same
CLIENT_GONE: Final = 499
#: a longer id is not told: no more than the length of a UUID, so that an API key is none
_MAX_ID: Final = 36
_ERROR: Final = re.compile(rb'\{"error":\{"code":(-?\d+)')


def error_code(answer: Text) -> int:
    """The JSON-RPC error code of an answer that `rpc.json_wire.encode_error` has written; 0 for a result."""
    if not isinstance(answer, bytes):
        return 0  # an error is short
    found = _ERROR.match(answer)
    return 0 if found is None else int(found[1])


@dataclass(slots=True)
class Answered:
    """One answer. `method`: a name of the registry or of Lotus', "unknown", or "" where no call was read.

    `seconds`: from the read request to its answer. `cache`: as `X-Cache` says. `size`: of the answer, bytes.
    """

    version: int | None
    method: str = ""
    request_id: Any = None
    head: Head | None = None
    seconds: float = 0.0
    cache: str = ""
    source: str = LOCAL
    tenant: str = ""
    client: str = ""
    status: int = 200
    code: int = 0
    size: int = 0
    is_websocket: bool = False
    is_batch: bool = False

    @classmethod
    def of(cls, ctx: Context) -> Answered:
        """What the context tells."""
        tenant = tenant_of(ctx.permissions)
        return cls(
            ctx.version,
            head=ctx.pinned,
            tenant="" if tenant is None else tenant.name,
            client=ctx.client,
            is_websocket=ctx.session is not None,
            is_batch=ctx.lane_places is not None,
        )

    def fields(self) -> dict[str, Any]:
        """The fields of a line of the log; what is empty is left out."""
        request_id = self.request_id
        is_long = isinstance(request_id, str) and len(request_id) > _MAX_ID
        found: dict[str, Any] = {
            "method": self.method,
            "id": f"… ({len(request_id)} characters)" if is_long else request_id,
            "path": None if self.version is None else f"/rpc/v{self.version}",
            "over": "websocket" if self.is_websocket else "http",
            "batch": self.is_batch or None,
        }
        if self.head is not None:
            seq, height, key = self.head.text.decode().split(",")
            found |= {"head": int(seq), "height": int(height), "tipset": key}
        found |= {
            "ms": round(self.seconds * 1e3, 3),
            "cache": self.cache,
            "source": self.source if self.method else "",
            "tenant": self.tenant,
            "client": self.client,
            "status": self.status,
            "code": self.code,
            "bytes": self.size,
        }
        return {name: value for name, value in found.items() if value is not None and value != ""}
