"""A real Chromium over the status page, driven by `browser.mjs`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.support.node_packages import installed, lacking

HERE: Final = Path(__file__).parent
WIDE: Final = (1180, 900)
NARROW: Final = (390, 844)


class Browser:
    """One page. Every command fails with the browser's own error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _do(self, name: str, **more: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": name, **more}).encode() + b"\n")
        async with asyncio.timeout(90):
            line = await self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-3000:])
        answer = json.loads(line)
        assert "error" not in answer, f"{name} {more}: {answer['error']}"
        return answer["result"]

    async def open(self, url: str, size: tuple[int, int] = WIDE, *, dark: bool = False) -> None:
        """Load a page."""
        await self._do("open", url=url, width=size[0], height=size[1], dark=dark)

    async def wait(self, until: str, seconds: float = 30) -> None:
        """Wait until an expression of JavaScript is true."""
        await self._do("wait", until=until, seconds=seconds)

    async def evaluate(self, text: str) -> Any:
        """The value of an expression of JavaScript."""
        return await self._do("evaluate", text=text)

    async def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        await self._do("screenshot", path=str(path))

    async def serious_faults(self) -> list[dict[str, Any]]:
        """What axe-core finds of serious or critical impact."""
        found = await self._do("axe")
        return [one for one in found if one["impact"] in ("serious", "critical")]

    async def seen(self) -> dict[str, list[str]]:
        """`errors`: of the console; `origins`: where the page has asked anything."""
        return dict(await self._do("seen"))


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser; the test is skipped where there is none."""
    command = shutil.which("chromium")
    if command is None:
        lacking("the status page is tested in Debian's chromium: apt-get install chromium")
    node, folder = installed(HERE)
    process = await asyncio.create_subprocess_exec(
        node, str(folder / "browser.mjs"), str(command),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )  # fmt: skip
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
