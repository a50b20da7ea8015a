"""Downloads a snapshot into a file. Continues where an earlier download stopped. Checks its length and its hash.

Beside the file `KEY.part` stands `KEY.json`: the address after redirects, the ETag, the length and the published hash.
With them a later run asks for the rest of the same file (`Range`, `If-Range`: RFC 9110, 13 and 14). An address that
names "the latest" snapshot leads to another file each hour, so the address after redirects is asked first. It may hold
a signature; both files are readable by their owner only, and no log or error shows a query or a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import re
import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from blockstore.errors import DownloadFailed

_CHUNK: Final = 1 << 20
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 10
#: answers after which another try may succeed
_LATER: Final = (408, 425, 429, 500, 502, 503, 504)
#: answers that say that an address leads nowhere (any more)
_GONE: Final = (401, 403, 404, 410)
_LONGEST_DELAY: Final = 60.0
_LONGEST_RETRY_AFTER: Final = 300.0
_CHECKSUM_BYTES: Final = 4096
_CHECKSUM: Final = re.compile(rb"\s*([0-9a-fA-F]{64})(?:\s|$)")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_FILE_NAME: Final = re.compile(r'filename="?([A-Za-z0-9._+-]{1,200})"?')
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
#: what a published hash's name leaves out of the file's: Protocol Labs' service has X.sha256sum beside X.car.zst
_SUFFIXES: Final = (".forest.car.zst", ".car.zst", ".car")


class Restarted(Exception):
    """The file is downloaded anew from its first byte: what was read of it is of no use. The text says why."""


class _TryLater(Exception):
    """An attempt failed, and another may not. `seconds`: what the server asks to wait (0: nothing)."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """`timeout_seconds`: a connection without a byte for so long is given up. `attempts` in a row without one end the
    download. `sha256`: hex digits; a published hash is not asked for then."""

    timeout_seconds: float = 60.0
    attempts: int = 10
    first_delay_seconds: float = 1.0
    sha256: str = ""


@dataclass(slots=True)
class _Known:
    """What is known of the file. Sizes in bytes; None and "": not known."""

    url: str = ""
    etag: str = ""
    modified: str = ""
    size: int | None = None
    sha256: str = ""
    #: where the hash is published, as it may be shown
    sha256_from: str = ""
    name: str = ""

    @property
    def validator(self) -> str:
        """What tells that it is the same file, for If-Range: a weak ETag does not."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def shown_url(url: str | URL) -> str:
    """A URL without user, password, query and fragment."""
    try:
        parsed = URL(str(url))
        port = "" if parsed.is_default_port() or parsed.port is None else f":{parsed.port}"
        return f"{parsed.scheme}://{parsed.host or ''}{port}{parsed.path}"
    except ValueError:
        return "a malformed URL"


class Download:
    """One download. `await open()`, then read `path` while it grows; `complete()`, `verified()`; at last `close()`.

    `folder` keeps the file; it is made where it is not there. `say` takes lines for people. Errors of all methods:
    DownloadFailed; of `complete` and `verified` also Restarted.
    """

    def __init__(
        self, url: str, folder: Path, options: DownloadOptions | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self._url = url
        self._options = options or DownloadOptions()
        self._say = say or (lambda text: None)
        self.shown = shown_url(url)
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._folder = folder
        self.path = folder / f"{key}.part"
        self._known_path = folder / f"{key}.json"
        self._known = _Known()
        self._file: Any = None
        #: bytes of the file that are here
        self.have = 0
        #: bytes that an earlier run had fetched
        self.resumed_at = 0
        self._session: aiohttp.ClientSession | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._hashing: asyncio.Task[str] | None = None
        self._opened = asyncio.Event()
        self._grown = asyncio.Event()
        self._whole = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, None where the server does not say."""
        return self._known.size

    @property
    def note(self) -> str:
        """How far it is, for people; empty when the whole file is here."""
        if self._whole:
            return ""
        return f"{100 * self.have // self.size} % downloaded" if self.size else f"{self.have:,} bytes downloaded"

    # --- from outside ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin. Returns when the server has begun to send, or when the whole file is here already."""
        self._open_file()
        if self._known.size is not None and self.have == self._known.size:
            self._whole = True
            self._say(f"{self.shown} is downloaded already: {self.have:,} bytes")
        else:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._options.timeout_seconds,
                    sock_connect=self._options.timeout_seconds,
                    sock_read=self._options.timeout_seconds,
                ),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
            self._fetching = asyncio.create_task(self._fetch())
            opened = asyncio.create_task(self._opened.wait())
            await asyncio.wait((self._fetching, opened), return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            if self._fetching.done():
                await self._fetching
        if self._wanted:
            self._hashing = asyncio.create_task(self._hash())

    async def complete(self) -> None:
        """Wait until the whole file is here."""
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    async def verified(self) -> None:
        """Wait until the whole file is here and its hash is compared. A file with another hash is removed."""
        await self.complete()
        if self._hashing is None:
            return
        found = await asyncio.shield(self._hashing)
        if found != self._wanted:
            said_by = "--sha256" if self._options.sha256 else self._known.sha256_from
            self.discard()
            raise DownloadFailed(
                f"{self.shown} has the sha256 {found}, but {said_by} says {self._wanted}: the file is removed, and no "
                "head is published"
            )

    def discard(self) -> None:
        """Remove the file: going on with it would not mend it."""
        self.path.unlink(missing_ok=True)
        self._known_path.unlink(missing_ok=True)

    def keep(self) -> Path:
        """Keep the whole file under the publisher's name for it, in the same folder. Returns where."""
        kept = self._folder / (self._known.name or f"{self.path.stem}.car.zst")
        os.replace(self.path, kept)
        self._known_path.unlink(missing_ok=True)
        return kept

    async def close(self) -> None:
        """Stop. What is here stays, and a later run goes on from there."""
        for task in (self._fetching, self._hashing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, DownloadFailed, Restarted, OSError):
                    await task
        if self._session is not None:
            await self._session.close()
        if self._file is not None:
            self._file.close()

    # --- the file ----------------------------------------------------------------------------------

    @property
    def _wanted(self) -> str:
        return (self._options.sha256 or self._known.sha256).lower()

    def _open_file(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DownloadFailed(f"{self._folder} cannot hold the download: {error.strerror}") from None
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DownloadFailed(f"another process downloads {self.shown} into {self._folder}") from None
        self.have = self._file.seek(0, os.SEEK_END)
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            self._known = _Known(**orjson.loads(self._known_path.read_bytes()))
        if not self._known.url:
            # without its address nothing tells what the bytes are of
            self._truncate()
        self.resumed_at = self.have

    def _truncate(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self.have = 0
        self._known = _Known()
        self._known_path.unlink(missing_ok=True)

    def _save_known(self) -> None:
        made = self._known_path.with_suffix(".new")
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(self._known)))
        os.replace(made, self._known_path)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                written = self._file.write(left)
                self.have += written
                left = left[written:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DownloadFailed(self._no_room("is full")) from None
            raise DownloadFailed(f"{self.path} cannot be written: {error.strerror}") from None

    def _check_room(self) -> None:
        if self._known.size is not None:
            left, free = self._known.size - self.have, shutil.disk_usage(self._folder).free
            if left > free:
                raise DownloadFailed(self._no_room(f"has {free / 1e9:,.2f} GB free, {left / 1e9:,.2f} GB are to come"))

    def _no_room(self, what: str) -> str:
        return (
            f"the disk of {self._folder} {what}; make room and run the same command again: it goes on at byte "
            f"{self.have:,} of {self.shown}"
        )

    # --- fetching ----------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        """Get the rest of the file, in as many attempts as bring some of it."""
        failed = 0
        while not self._whole:
            before = self.have
            try:
                await self._attempt()
            except _TryLater as error:
                failed = 1 if self.have > before else failed + 1
                if failed >= self._options.attempts:
                    raise DownloadFailed(
                        f"{self.shown}: {error}, {failed} times in a row; {self.have:,} bytes are kept, and the same "
                        "command goes on from there"
                    ) from None
                delay = min(self._options.first_delay_seconds * 2 ** (failed - 1), _LONGEST_DELAY)
                delay = max(delay * random.uniform(0.5, 1.0), error.seconds)
                self._say(f"{self.shown}: {error}; trying again in {delay:.0f} s, at byte {self.have:,}")
                await asyncio.sleep(delay)
            finally:
                self._grown.set()

    async def _attempt(self) -> None:
        """One request. Errors: _TryLater, DownloadFailed, Restarted."""
        try:
            headers = {}
            if self.have:
                headers["Range"] = f"bytes={self.have}-"
                if self._known.validator:
                    headers["If-Range"] = self._known.validator
            async with self._get(URL(self._known.url or self._url, encoded=True), headers) as (response, url):
                if response.status in _GONE and self._known.url:
                    # the address after redirects has expired; the one that was asked for may lead to the same file
                    self._known.url = ""
                    return
                self._check_status(response)
                await self._begin(response, url)
                async for data in response.content.iter_chunked(_CHUNK):
                    self._write(data)
                    self._grown.set()
        except TimeoutError:
            raise _TryLater(f"no byte for {self._options.timeout_seconds:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _TryLater(_reason(error)) from None
        except ValueError:
            raise DownloadFailed(f"{self.shown} is not an http or https URL that can be asked") from None
        if self._known.size is None:
            self._known.size = self.have
            self._save_known()
        if self.have != self._known.size:
            raise _TryLater(f"the answer ended at byte {self.have:,} of {self._known.size:,}")
        self._whole = True

    @contextlib.asynccontextmanager
    async def _get(self, url: URL, headers: dict[str, str]) -> AsyncGenerator[tuple[aiohttp.ClientResponse, URL]]:
        """The answer behind all redirects, and its address."""
        assert self._session is not None
        for _ in range(_MOST_REDIRECTS):
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response, url
                    return
                target = url.join(URL(response.headers.get("Location", ""), encoded=True))
            if target.scheme != "https":
                raise DownloadFailed(
                    f"{shown_url(url)} redirects to {shown_url(target)}: redirects are followed to https only"
                )
            url = target.with_user(None)
        raise DownloadFailed(f"{self.shown} redirects more than {_MOST_REDIRECTS} times")

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        if response.status in _LATER:
            after = response.headers.get("Retry-After", "")
            seconds = min(float(after), _LONGEST_RETRY_AFTER) if after.isdigit() else 0.0
            raise _TryLater(f"HTTP {response.status}", seconds)
        if response.status not in (200, 206, 416):
            raise DownloadFailed(f"{self.shown}: HTTP {response.status}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed(f"{self.shown}: the server encodes the file ({response.headers['Content-Encoding']})")

    async def _begin(self, response: aiohttp.ClientResponse, url: URL) -> None:
        """Judge the head of an answer: it goes on with what is here, or the file begins anew."""
        known = self._known
        etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        if self.have:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = found[3] if found else None
            same = all(old in ("", new) for old, new in ((known.etag, etag), (known.modified, modified)) if new)
            if response.status == 206 and found and int(found[1]) == self.have and same:
                if known.size is None and total not in (None, "*"):
                    known.size = int(str(total))
                if total in ("*", str(known.size)):
                    known.url = str(url)
                    self._check_room()
                    if not self._opened.is_set():
                        self._say(f"{self.shown}: an earlier download stopped at byte {self.have:,}; going on there")
                    self._save_known()
                    self._opened.set()
                    return
            took_no_range = response.status == 200 and same and response.content_length == known.size
            reason = (
                "the server sends no part of a file"
                if took_no_range
                else "the file on the server has changed since the download began"
            )
            self._truncate()
            if self._opened.is_set():
                raise Restarted(reason)
            self._say(f"{self.shown}: {reason}; beginning anew")
            if response.status != 200:
                raise _TryLater(reason)
        if response.status != 200:
            raise DownloadFailed(f"{self.shown}: HTTP {response.status} to a request for the whole file")
        named = _FILE_NAME.search(response.headers.get("Content-Disposition", ""))
        name = named[1] if named else url.name
        self._known = _Known(str(url), etag, modified, response.content_length)
        self._known.name = name if _SAFE_NAME.fullmatch(name) and not name.endswith((".part", ".json")) else ""
        self._check_room()
        if not self._options.sha256:
            await self._find_checksum(url, name)
        self._save_known()
        self._opened.set()

    async def _find_checksum(self, url: URL, name: str) -> None:
        """Look for a hash published beside the file: X.sha256sum, where X is its name, whole or without its suffix."""
        plain = url.with_query(None).with_fragment(None)
        folder = plain.parent if url.name else plain
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
        stems = [name, name.removesuffix(suffix)] if suffix else [name]
        for stem in stems if name else []:
            async with self._get(folder / f"{stem}.sha256sum", {}) as (response, found_at):
                if response.status in _LATER:
                    raise _TryLater(f"the published hash cannot be had: HTTP {response.status}")
                if response.status != 200:
                    continue
                text = await response.content.read(_CHECKSUM_BYTES)
            if (found := _CHECKSUM.match(text)) is not None:
                self._known.sha256, self._known.sha256_from = found[1].decode().lower(), shown_url(found_at)
                return
        self._say(f"{self.shown}: no hash is published beside it")

    async def _hash(self) -> str:
        """The sha256 of the file, computed while it comes."""
        digest = hashlib.sha256()
        with self.path.open("rb", buffering=0) as file:
            while True:
                self._grown.clear()
                is_whole = self._whole
                data = await asyncio.to_thread(file.read, 4 * _CHUNK)
                if data:
                    await asyncio.to_thread(digest.update, data)
                elif is_whole:
                    return digest.hexdigest()
                elif not self._whole:
                    await self._grown.wait()


def _reason(error: Exception) -> str:
    """Why a connection failed. The text of a client's error may hold a URL with its secrets."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, OSError) and inner.strerror:
        return str(inner.strerror)
    return "the connection broke" if isinstance(error, aiohttp.ClientPayloadError) else type(error).__name__
