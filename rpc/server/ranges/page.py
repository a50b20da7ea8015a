"""Answers those who have a token at `/range`, `/obj` and `/shard-files`, within limits: a second, at once, bytes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.errors import BadCid, StoreError
from blockstore.lookup import Lookup
from chain.errors import ChainError, NotHeld
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE
from chain.index.oldest import oldest_held
from chain.tipset import Tipset, TipsetKey
from rpc.server.auth import sends
from rpc.server.ranges.admission import Admission, OwnAdmission
from rpc.server.ranges.bundle import Bundle, Objects, TooLarge, bundle_contents, bundle_headers, bundle_objects
from rpc.server.ranges.shard_files import ShardFiles
from rpc.server.ranges.wire import (
    CAR_TYPE,
    CHAIN_TIPSETS,
    HEADERS,
    MOST_BODY,
    MOST_EPOCHS,
    NOT_HELD,
    OBJECTS,
    PARTS,
    RANGE,
    SHARD_FILES,
    BadWire,
    Offer,
    read_multihashes,
    write_numbers,
)
from rpc.server.server import Server
from rpc.services import Services

log = logging.getLogger("follower.ranges")

#: seconds for which what is held is not looked up again
_OFFER_SECONDS: Final = 30.0
#: seconds until one may ask again where all places of answers are taken
_FULL_SECONDS: Final = 0.1
#: seconds in which a body must be there
_BODY_SECONDS: Final = 10.0
#: a tipset key of more blocks is none
_MOST_KEY: Final = 64 * 40
_FLAGS: Final = {"messages": HELD_MESSAGES, "state": HELD_STATE, "receipts": HELD_RECEIPTS, "events": HELD_EVENTS}


@dataclass(frozen=True, slots=True)
class RangeLimits:
    """What is given. `per_second`: requests of one token, `in_all` of all. `at_once`: answers in the making."""

    per_second: int = 10
    in_all: int = 50
    at_once: int = 4


@dataclass(slots=True)
class Given:
    """What was given since the start."""

    requests: int = 0
    objects: int = 0
    sent_bytes: int = 0
    #: requests that were refused because of a limit
    limited: int = 0


class RangePages:
    """The pages over the store of `services`. `tokens`: who may ask, by name. `admission`: what counts requests (None:
    for this process). `shards`: shards of files that are given too. `clock`: what it goes by.
    """

    def __init__(
        self,
        services: Services,
        objects: Objects,
        tokens: Mapping[str, str],
        limits: RangeLimits | None = None,
        *,
        admission: Admission | None = None,
        shards: ShardFiles | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._services = services
        self._objects = objects
        self._tokens = {name: f"Bearer {token}".encode() for name, token in tokens.items()}
        self.limits = limits or RangeLimits()
        self._clock = clock or asyncio.get_running_loop().time
        self._admission = admission or OwnAdmission(list(tokens), self.limits.per_second, self.limits.in_all)
        self._shards = shards
        self._lookup = Lookup()
        self._held: dict[str, int] = {}
        self._held_until = -math.inf
        self.given = Given()

    def serve_on(self, server: Server) -> None:
        """Answer from now on."""

        async def pages(request: BaseRequest) -> web.StreamResponse | None:
            is_ours = request.path in (RANGE, OBJECTS, SHARD_FILES) or request.path.startswith(f"{SHARD_FILES}/")
            return await self.answer(request) if is_ours else None

        server.add_pages(pages)

    async def answer(self, request: BaseRequest) -> web.Response:
        """401 without a token, 429 beyond a limit, 400 for what is no such question, 404 for what is not held."""
        name = self._caller(request)
        if name is None:
            return web.Response(status=401)
        place = self._admission.enter(self.limits.at_once)
        # it is refused, not delayed: delays build queues
        wait = _FULL_SECONDS if place is None else self._admission.admit(name, self._clock())
        if place is None or wait > 0:
            if place is not None:
                self._admission.leave(place)
            self.given.limited += 1
            return web.Response(
                status=429,
                headers={"Retry-After": f"{math.ceil(wait)}", "X-Retry-After-Ms": f"{math.ceil(wait * 1000)}"},
            )
        try:
            return await self._answer(request)
        except (BadWire, BadCid) as error:
            return web.Response(status=400, text=f"{error}\n")
        except TimeoutError:
            return web.Response(status=408, text="the body did not come\n")
        except NotHeld as error:
            return web.Response(status=404, text=f"{error}\n")
        except TooLarge as error:
            return web.Response(status=413, text=f"{error}\n")
        except (StoreError, ChainError, OSError) as error:
            log.warning("a range is not given: %s", error)
            return web.Response(status=503, headers={"Retry-After": "5"})
        finally:
            self._admission.leave(place)

    def _caller(self, request: BaseRequest) -> str | None:
        """The name of the token; every token is compared, whatever came."""
        found = None
        for name, token in self._tokens.items():
            if sends(request, token):
                found = name
        return found

    async def _answer(self, request: BaseRequest) -> web.Response:
        self.given.requests += 1
        if request.path == OBJECTS:
            if request.method != "POST":
                return web.Response(status=405)
            return self._sent(await bundle_objects(self._objects, read_multihashes(await _body(request))))
        if request.method != "GET":
            return web.Response(status=405)
        if request.path.startswith(SHARD_FILES):
            return await self._shard(request)
        if not request.query_string:
            offer = await self._offer()
            return web.Response(body=offer.to_json(), content_type="application/json")
        head, low, high, parts = _asked(request.query)
        index = self._services.index
        if parts == {HEADERS}:
            return self._sent(await bundle_headers(index, self._objects, head, low, high))
        return self._sent(await bundle_contents(index, self._objects, head, low, high, parts))

    async def _shard(self, request: BaseRequest) -> web.Response:
        """The list of shards, or one. Errors: NotHeld, TooLarge, OSError."""
        if self._shards is None:
            raise NotHeld("no shards are kept here")
        if request.path == SHARD_FILES:
            listed = await asyncio.to_thread(self._shards.listed, request.query.get("after", ""))
            return web.Response(body=listed, content_type="application/json")
        data = await asyncio.to_thread(self._shards.content, request.path.removeprefix(f"{SHARD_FILES}/"))
        self.given.objects += 1
        self.given.sent_bytes += len(data)
        return web.Response(body=data, content_type="application/octet-stream")

    def _sent(self, bundle: Bundle) -> web.Response:
        self.given.objects += bundle.objects
        self.given.sent_bytes += len(bundle.body)
        headers = {NOT_HELD: write_numbers(bundle.not_held)} if bundle.not_held else {}
        return web.Response(body=bytes(bundle.body), content_type=CAR_TYPE, headers=headers)

    async def _offer(self) -> Offer:
        services = self._services
        head = (await services.head_source.current()).tipset
        chain: list[tuple[int, bytes]] = []
        tipset = head
        while True:
            chain.append((tipset.height, bytes(tipset.key)))
            if tipset.height == 0 or len(chain) == CHAIN_TIPSETS:
                break
            try:
                tipset = await services.index.parent(tipset)
            except NotHeld:
                break
        return Offer(services.network.to_json(), tuple(chain), await self._held_from(head), self.limits.per_second)

    async def _held_from(self, head: Tipset) -> dict[str, int]:
        now = self._clock()
        if now >= self._held_until:
            index = self._services.index
            kept = await index.kept()
            lows = {"state": kept.state}
            found = {
                name: await oldest_held(index, self._lookup, head, flag, lows.get(name, kept.messages))
                for name, flag in _FLAGS.items()
            }
            held = {name: low for name, low in found.items() if low is not None}
            held["headers"] = await self._lookup.first(0, head.height, self._has_header(head))
            # only now: who asks meanwhile must not be told that nothing is held
            self._held, self._held_until = held, now + _OFFER_SECONDS
        return self._held

    def _has_header(self, head: Tipset) -> Callable[[int], Awaitable[bool]]:
        async def has(epoch: int) -> bool:
            try:
                await self._services.index.at_height(head, epoch)
            except NotHeld:
                return False
            return True

        return has


async def _body(request: BaseRequest) -> bytes:
    """Errors: BadWire (too long), TimeoutError (it does not come: it must not keep the place of an answer)."""
    body = b""
    async with asyncio.timeout(_BODY_SECONDS):
        while more := await request.content.read(MOST_BODY + 1 - len(body)):
            body += more
    if len(body) > MOST_BODY:
        raise BadWire("the body is too long")
    return body


def _asked(query: Mapping[str, str]) -> tuple[TipsetKey, int, int, frozenset[str]]:
    """(head, lowest epoch, highest epoch, parts). Errors: BadWire, BadCid."""
    try:
        head, low, high = query["head"], int(query["low"]), int(query["high"])
        parts: Sequence[str] = query["parts"].split(",")
        key = TipsetKey(bytes.fromhex(head[: 2 * _MOST_KEY]))
    except (KeyError, ValueError):
        raise BadWire("not a range: head, low, high and parts are needed") from None
    is_known = set(parts) <= set(PARTS) and (HEADERS not in parts or len(parts) == 1)
    if not key or not key.cids or not is_known or not 0 <= low <= high < low + MOST_EPOCHS:
        raise BadWire(f"a range has a head, at most {MOST_EPOCHS} epochs, and parts of {', '.join(PARTS)}")
    return key, low, high, frozenset(parts)
