"""The questions that clients asked last, in a file beside the object tier: a follower that restarts asks them again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from rpc.server.answers.raw_request import MAX_RAW

log = logging.getLogger(__name__)

#: (API version: 0, 1 or 2; request)
Question = tuple[int, bytes]

_FILE: Final = "asked.json"
#: questions that are kept, and bytes of them
MOST_QUESTIONS: Final = 4096
_MOST_BYTES: Final = 1 << 20
#: bytes of their JSON: each character may be escaped, and around each question stand a few more
MOST_ENCODED: Final = 2 * _MOST_BYTES + 16 * MOST_QUESTIONS
_VERSIONS: Final = frozenset((0, 1, 2))
#: seconds between two writes: what kill -9 loses
_SAVE_SECONDS: Final = 10.0


def within_bounds(questions: Iterable[Question]) -> list[Question]:
    """The first of them, each once: at most 4,096 and 1 MiB."""
    found: list[Question] = []
    size = 0
    for version, body in islice(dict.fromkeys(questions), MOST_QUESTIONS):
        size += len(body)
        if size > _MOST_BYTES:
            break
        found.append((version, body))
    return found


def encode_questions(questions: Iterable[Question]) -> bytes:
    """JSON: a list of pairs (API version, request)."""
    return orjson.dumps([(version, body.decode("utf-8", "replace")) for version, body in questions])


def decode_questions(data: bytes) -> list[Question]:
    """What `encode_questions` made, within the bounds; leaves out what is no such pair. Errors: ValueError."""
    if len(data) > MOST_ENCODED:
        raise ValueError(f"more than {MOST_ENCODED} bytes")
    found = orjson.loads(data)
    if not isinstance(found, list):
        raise ValueError("not a list")
    pairs = (pair for pair in found if isinstance(pair, list) and len(pair) == 2)
    return within_bounds(
        (version, text.encode())
        for version, text in pairs
        if type(version) is int and version in _VERSIONS and isinstance(text, str) and len(text) <= MAX_RAW
    )


class AskedBefore:
    """The file. `folder`: of this machine's object tier; its processes share the file, the last that writes wins.

    It is no record of anything: whatever is wrong with it, the follower starts without it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._own = folder / f"{_FILE}.{os.getpid()}"
        self._saved: list[Question] = []
        self._loaded: list[Question] = []

    def load(self) -> list[Question]:
        """The questions, the newest first. They are saved again, behind newer ones."""
        self._loaded = self.read()
        return self._loaded

    def read(self) -> list[Question]:
        """The questions that the file has now, the newest first; none where it cannot be read."""
        try:
            if self._path.stat().st_size > MOST_ENCODED:
                return []
            return decode_questions(self._path.read_bytes())
        except (OSError, ValueError):
            return []

    def save(self, questions: Sequence[Question]) -> None:
        """Replace the file: by these, the newest first, and behind them those that were loaded. Errors: OSError."""
        wanted = within_bounds((*questions, *self._loaded))
        try:
            # requests name accounts: nobody else needs to read them
            with open(os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(encode_questions(wanted))
            self._own.replace(self._path)
        except BaseException:
            self._own.unlink(missing_ok=True)
            raise

    async def keep(self, questions: Callable[[int], list[Question]]) -> None:
        """Save now and then, until cancelled, and once more then. `questions(most)`: those of the moment."""
        try:
            while True:
                await asyncio.sleep(_SAVE_SECONDS)
                await asyncio.to_thread(self._save_new, questions(MOST_QUESTIONS))
        finally:
            self._save_new(questions(MOST_QUESTIONS))

    def _save_new(self, questions: list[Question]) -> None:
        if not questions or questions == self._saved:
            return
        with contextlib.suppress(OSError):
            self.save(questions)
            self._saved = questions
