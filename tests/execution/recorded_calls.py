"""Recorded calls asked of a follower that executes, and what of its answers differs from the recorded ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import zstandard

from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.support.recorded import recorded

#: where an answer holds what is drawn anew each time: what is left of it to compare
_DRAWN = re.compile(r"(Actor balance less than needed: [0-9.]+) < [0-9.]+")
#: fields that no answer repeats
_TIMES = frozenset({"tt", "Duration"})
#: a node whose index is late answers a bloom of ones
_FULL_BLOOM = "0x" + "ff" * 256
#: what an answer says that needs the migration of a network upgrade
_MIGRATION = "execution across the change of the state"
LEFT_OUT = "left out: a migration is not executed"


def calls(file: str, methods: str = "") -> Iterator[dict[str, Any]]:
    """The calls of a recording whose method matches the pattern `methods`."""
    with zstandard.open(recorded(file), "rt", encoding="utf-8") as lines:
        for line in lines:
            one = orjson.loads(line)
            if re.search(methods, one["method"] + " "):
                yield one


def comparable(value: Any) -> Any:
    """A result without what no answer repeats."""
    if isinstance(value, dict):
        return {
            name: "" if name == "logsBloom" and item == _FULL_BLOOM else comparable(item)
            for name, item in value.items()
            if name not in _TIMES
        }
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return _DRAWN.sub(r"\1", value) if isinstance(value, str) else value


async def ask(dispatcher: Dispatcher, method: str, params: Any, version: int = 1) -> dict[str, Any]:
    """The whole answer to a call."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer: dict[str, Any] = orjson.loads((await dispatcher.http(version, orjson.dumps(request)))[1])
    return answer


async def differences(services: Services, recording: Iterable[dict[str, Any]]) -> tuple[Counter[str], list[str]]:
    """(answers compared by method, what differs). Those that need a migration executed are counted as left out."""
    register_all()
    dispatcher = Dispatcher(services)
    compared: Counter[str] = Counter()
    found = []
    for one in recording:
        answer = await ask(dispatcher, one["method"], one["params"], int(one["path"][-1]))
        wanted = comparable({name: one[name] for name in ("result", "error") if name in one})
        got = comparable({name: answer[name] for name in ("result", "error") if name in answer})
        if isinstance(wanted.get("result"), dict) and wanted["result"].get("logsBloom") == "":
            got["result"]["logsBloom"] = ""
        if _MIGRATION in got.get("error", {}).get("message", ""):
            compared[LEFT_OUT] += 1
            continue
        compared[one["method"]] += 1
        if got != wanted:
            text = f"{one['method']} {orjson.dumps(one['params'])[:400]!r}: {str(got)[:600]} for {str(wanted)[:600]}"
            found.append(text)
    return compared, found
