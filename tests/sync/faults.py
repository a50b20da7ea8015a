"""Followers that do not give as they should, on the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.car.writer import section_start
from rpc.server.ranges.page import RangePages
from rpc.server.ranges.wire import CAR_START, CAR_TYPE, NOT_HELD, read_car

#: makes an answer bad, or does not answer
Fault = Callable[[BaseRequest, web.Response], Awaitable[web.Response]]


def spoil(pages: RangePages, fault: Fault, *, spares_offers: bool = True) -> list[str]:
    """Let a follower's answers be bad from now on; the paths of the answers that were."""
    answer = pages.answer
    spoiled: list[str] = []

    async def bad(request: BaseRequest) -> web.Response:
        right = await answer(request)
        is_offer = request.path == "/range" and not request.query_string
        if right.status != 200 or (is_offer and spares_offers):
            return right
        spoiled.append(request.path_qs)
        return await fault(request, right)

    pages.answer = bad  # type: ignore[method-assign]
    return spoiled


def again(right: web.Response, body: bytes) -> web.Response:
    """The same answer with another body."""
    headers = {NOT_HELD: right.headers[NOT_HELD]} if NOT_HELD in right.headers else {}
    return web.Response(body=body, content_type=CAR_TYPE, headers=headers)


async def lie(request: BaseRequest, right: web.Response) -> web.Response:
    """One byte of an object is another one."""
    body = bytearray(right.body)  # type: ignore[arg-type]
    if len(body) > len(CAR_START):
        body[-1] ^= 1
    return again(right, bytes(body))


async def stall(request: BaseRequest, right: web.Response) -> web.Response:
    """It takes the question and says nothing."""
    await asyncio.Event().wait()
    return right


async def fail(request: BaseRequest, right: web.Response) -> web.Response:
    return web.Response(status=500)


async def deny(request: BaseRequest, right: web.Response) -> web.Response:
    """It says that it holds nothing of it."""
    return web.Response(status=404)


async def garble(request: BaseRequest, right: web.Response) -> web.Response:
    return web.Response(body=b"\x28\xb5\x2f\xfd not what it should be", content_type=CAR_TYPE)


def cut(share: float) -> Fault:
    """Leaves objects out, here and there, and says nothing of it."""
    chance = random.Random(5)

    async def short(request: BaseRequest, right: web.Response) -> web.Response:
        body = bytearray(CAR_START)
        for cid, data in read_car(bytes(right.body)).items():  # type: ignore[arg-type]
            if chance.random() >= share:
                body += section_start(cid, len(data)) + data
        return again(right, bytes(body))

    return short


def only_first(count: int) -> Fault:
    """The first objects of an answer, as where a limit of size cuts it."""

    async def short(request: BaseRequest, right: web.Response) -> web.Response:
        if "headers" in request.query_string:
            # ten epochs of headers are far below the limit
            return right
        body = bytearray(CAR_START)
        for cid, data in list(read_car(bytes(right.body)).items())[:count]:  # type: ignore[arg-type]
            body += section_start(cid, len(data)) + data
        return again(right, bytes(body))

    return short
