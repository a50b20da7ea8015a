"""The questions that clients asked last, in a file beside the object tier: a follower that restarts asks them again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

log = logging.getLogger(__name__)

#: (API version, request)
Question = tuple[int, bytes]

_FILE: Final = "asked.json"
#: questions that are kept, and bytes of them
_MOST: Final = 4096
_MOST_BYTES: Final = 1 << 20
#: seconds between two writes: what kill -9 loses
_SAVE_SECONDS: Final = 10.0


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
        """The questions, the newest first."""
        self._loaded = self._read()
        return self._loaded

    def _read(self) -> list[Question]:
        try:
            if self._path.stat().st_size > 2 * _MOST_BYTES:
                return []
            found = orjson.loads(self._path.read_bytes())
            return [(int(version), str(text).encode()) for version, text in found[:_MOST]]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def save(self, questions: Sequence[Question]) -> None:
        """Replace the file: by these, the newest first, and behind them those that were loaded. Errors: OSError."""
        wanted: list[tuple[int, str]] = []
        size = 0
        for version, body in islice(dict.fromkeys((*questions, *self._loaded)), _MOST):
            size += len(body)
            if size > _MOST_BYTES:
                break
            wanted.append((version, body.decode("utf-8", "replace")))
        try:
            # requests name accounts: nobody else needs to read them
            with open(os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(orjson.dumps(wanted))
            self._own.replace(self._path)
        except BaseException:
            self._own.unlink(missing_ok=True)
            raise

    async def keep(self, questions: Callable[[int], list[Question]]) -> None:
        """Save now and then, until cancelled, and once more then. `questions(most)`: those of the moment."""
        try:
            while True:
                await asyncio.sleep(_SAVE_SECONDS)
                await asyncio.to_thread(self._save_new, questions(_MOST))
        finally:
            self._save_new(questions(_MOST))

    def _save_new(self, questions: list[Question]) -> None:
        if not questions or questions == self._saved:
            return
        with contextlib.suppress(OSError):
            self.save(questions)
            self._saved = questions
