"""The questions that clients asked last, between followers: `GET /asked`, for those who know the peers' secret.

A new machine has no file of its own (`follower.ahead.asked_before`); its peers know what clients ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.web_request import BaseRequest

from follower.ahead.asked_before import (
    MOST_ENCODED,
    MOST_QUESTIONS,
    AskedBefore,
    Question,
    decode_questions,
    encode_questions,
    within_bounds,
)
from follower.object_tier.open import read_secret, tier_folder
from follower.object_tier.peers import PeerSource
from follower.settings import Settings
from rpc.client.follower_http import read_at_most
from rpc.server.auth import sends
from rpc.server.metrics import Metrics
from rpc.server.server import Server

log = logging.getLogger(__name__)

PATH: Final = "/asked"
#: peers that are asked, and those whose questions are taken: the first that answer
_ASKED: Final = 8
_TAKEN: Final = 3
#: requests name accounts: no cache on the way may keep them
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

#: (at most so many) -> the questions whose answers a process keeps, the newest first
Kept = Callable[[int], list[Question]]


class GivenQuestions:
    """Answers `/asked`: what this process was asked last, then what stands in the machine's file in `folder`."""

    def __init__(self, kept: Kept, folder: Path | None, secret: str) -> None:
        self._kept = kept
        self._file = None if folder is None else AskedBefore(folder)
        self._secret = f"Bearer {secret}".encode()
        #: one answer is in the making at a time
        self._making = asyncio.Lock()
        #: questions given
        self.given = 0

    def serve_on(self, server: Server) -> None:
        """Answer from now on."""

        async def pages(request: BaseRequest) -> web.StreamResponse | None:
            return await self.answer(request) if request.path == PATH else None

        server.add_pages(pages)

    def register(self, metrics: Metrics) -> None:
        """Tell how many were given."""
        metrics.counter(
            "follower_peer_questions_given",
            "Clients' questions given to peer followers that started.",
            lambda: self.given,
        )

    async def answer(self, request: BaseRequest) -> web.Response:
        """The questions, 401 without the secret."""
        if not sends(request, self._secret):
            return web.Response(status=401)
        if request.method != "GET":
            return web.Response(status=405)
        async with self._making:
            earlier = [] if self._file is None else await asyncio.to_thread(self._file.read)
            found = within_bounds((*self._kept(MOST_QUESTIONS), *earlier))
            self.given += len(found)
            return web.Response(body=encode_questions(found), content_type="application/json", headers=_HEADERS)


def give_questions(settings: Settings, server: Server) -> None:
    """Give questions to peers from now on, where the settings allow it. Errors: CannotRun (the secret's file)."""
    answers = server.dispatcher.answers
    if not settings["object_peer_secret_file"] or answers is None:
        return
    given = GivenQuestions(answers.questions, tier_folder(settings), read_secret(settings))
    given.serve_on(server)
    given.register(server.metrics)


async def ask_peers(peers: Sequence[PeerSource], seconds: float) -> list[Question]:
    """What clients asked some peers last, the newest of each first: of the first three that answer in this time.

    A peer that does not answer, is of an older version or sends something else is left out.
    """
    found: list[list[Question]] = []
    tasks = [asyncio.create_task(_ask(peer)) for peer in peers[:_ASKED]]
    try:
        async with asyncio.timeout(seconds):
            for answer in asyncio.as_completed(tasks):
                if questions := await answer:
                    found.append(questions)
                if len(found) == _TAKEN:
                    break
    except TimeoutError:
        log.info("some peers did not say in %.1f s what clients ask", seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    newest = chain.from_iterable(zip_longest(*found))
    return within_bounds(question for question in newest if question is not None)


async def _ask(peer: PeerSource) -> list[Question]:
    try:
        request: Any = peer.http.request("GET", PATH)
        async with request as response:
            if response.status != 200:
                # 404: it keeps no answers, or is of an older version
                log.info("%s does not say what clients ask: HTTP %d", peer.name, response.status)
                return []
            return decode_questions(await read_at_most(response.content, MOST_ENCODED))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.info("%s does not say what clients ask: %s", peer.name, type(error).__name__)
        return []
