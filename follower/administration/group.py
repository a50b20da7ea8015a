"""Asks every process of a command the same: an operator reaches all of them, not the one that took a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import orjson
from jsonrpcserver import Error, Result, Success

from follower.administration.controls import invalid
from rpc.client.follower_http import read_at_most
from rpc.errors import METHOD_NOT_FOUND
from rpc.server.admin import AdminMethod, dispatch, guarded

log = logging.getLogger("follower.admin")

#: all that some process can do
METHODS: Final = ("status", "drain", "resume", "cordon", "uncordon", "drop_cache", "log_level")
#: seconds that a process may take
_ANSWER_SECONDS: Final = 20.0
_MOST_BYTES: Final = 1 << 20
_NO_ANSWER: Final = -32000


class Member(Protocol):
    """One process. `name`: as operators know it."""

    @property
    def name(self) -> str:
        """As operators know it."""

    async def call(self, body: bytes) -> Any:
        """The answer to a JSON-RPC request. Errors: OSError, ValueError, TimeoutError."""


class OwnProcess:
    """This process."""

    def __init__(self, name: str, methods: dict[str, AdminMethod]) -> None:
        self.name = name
        self._methods = methods

    async def call(self, body: bytes) -> Any:
        """See Member."""
        return orjson.loads(await dispatch(self._methods, body))


class OtherProcess:
    """A process that serves its own group of one at a Unix socket."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    async def call(self, body: bytes) -> Any:
        """See Member."""
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.path))) as session:
            headers = {"Content-Type": "application/json"}
            try:
                async with session.post("http://localhost/", data=body, headers=headers) as response:
                    answer = orjson.loads(await read_at_most(response.content, _MOST_BYTES))
            except aiohttp.ClientError as error:
                raise OSError(type(error).__name__) from None
        # of the one process that answers there
        result = answer.get("result")
        return answer if result is None else next(iter(result.values()))


def group_methods(members: Sequence[Member]) -> dict[str, AdminMethod]:
    """The methods, asked of all `members`, or of the one that the parameter `process` names.

    A result is an object: by the name of each process its answer, a JSON-RPC `result` or `error`. Processes without the
    method are left out. What all of them refuse is refused.
    """

    async def ask(member: Member, body: bytes) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await member.call(body)
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("%s does not answer an administrator: %s", member.name, type(error).__name__)
            return {"error": {"code": _NO_ANSWER, "message": "the process does not answer"}}
        return {name: answer[name] for name in ("result", "error") if name in answer}

    def method(name: str) -> AdminMethod:
        async def call(*args: Any, process: str = "", **kwargs: Any) -> Result:
            asked = [member for member in members if process in ("", member.name)]
            if not asked:
                return invalid(f"no such process; there are {', '.join(member.name for member in members)}")
            params = list(args) if args else kwargs
            body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"admin.{name}", "params": params})
            answers = await asyncio.gather(*(ask(member, body) for member in asked))
            found = dict(zip((member.name for member in asked), answers, strict=True))
            able = {
                who: answer for who, answer in found.items() if answer.get("error", {}).get("code") != METHOD_NOT_FOUND
            }
            if not able:
                return Error(METHOD_NOT_FOUND, "no process here can do this")
            errors = [answer["error"] for answer in able.values() if "error" in answer]
            if len(errors) == len(able) and all(error == errors[0] for error in errors):
                return Error(errors[0]["code"], errors[0]["message"], errors[0].get("data"))
            return Success(able)

        return guarded(call)

    return {f"admin.{name}": method(name) for name in METHODS}
