"""`follower status --watch`: the figures of the status page in a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from follower.first_steps import served_at
from follower.settings import CannotRun, Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

_INTERVAL: Final = 1.0
_TIMEOUT: Final = 5.0
_MOST_BYTES: Final = 4 << 20
_METHODS: Final = 8
_ERRORS: Final = 4
_BAR: Final = 30
_COLOURS: Final = {
    "ready": "green", "leads": "green", "stands by": "green", "followed": "green", "usable": "green",
    "behind": "yellow", "draining": "yellow", "registered": "yellow", "warning": "yellow",
}  # fmt: skip


def status_url(settings: Settings) -> str:
    """Where the follower of the settings tells its status; one that listens everywhere is asked on this machine."""
    return f"http://{served_at(settings)}/status.json"


async def watch(settings: Settings, token_file: Path | None) -> int:
    """Show the status until interrupted. Errors: CannotRun (the follower refuses, no terminal library)."""
    import aiohttp
    from rich.console import Console
    from rich.live import Live

    headers = {}
    if token_file is not None:
        try:
            headers["Authorization"] = f"Bearer {token_file.read_text().strip()}"  # noqa: ASYNC240  (once, at the start)
        except OSError as error:
            raise CannotRun(f"--token-file {token_file}: {error.strerror}") from None
    url = status_url(settings)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    console = Console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            while True:
                live.update(await _frame(session, url), refresh=True)
                await asyncio.sleep(_INTERVAL)


async def _frame(session: Any, url: str) -> RenderableType:
    """One picture. Errors: CannotRun (the follower refuses)."""
    import aiohttp
    import orjson
    from rich.text import Text

    try:
        async with session.get(url) as response:
            body = await response.content.read(_MOST_BYTES)
            while more := await response.content.read(_MOST_BYTES):
                body += more
            status = response.status
        report = orjson.loads(body)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        why = str(error) or f"no answer within {_TIMEOUT:g} s"
        return Text(
            f"{url} does not answer: {why}\nIs a follower running there? The setting `listen` says where.", "red"
        )
    except ValueError:
        raise CannotRun(f"{url} is no status report: no follower, an older one, or one with status_page off") from None
    if status in (401, 403):
        raise CannotRun(f"{url}: {report['error']} (--token-file FILE sends a token)")
    if status != 200:
        return Text(f"{url}: {report.get('error', status)}", "yellow")
    return draw(report)


def draw(report: dict[str, Any]) -> RenderableType:
    """A report as a picture of about 40 lines."""
    from rich.console import Group
    from rich.text import Text

    follower, head, requests = report["follower"], report["head"], report["requests"]
    top = Text()
    top.append(f"{report['network']}  ", "bold")
    top.append(f"{follower['agent']}, process {follower['pid']}  ")
    top.append_text(_state(follower["state"]))
    if head is not None:
        top.append(
            f"\nhead {head['height']}, {max(0, report['now'] - head['timestamp']):.0f} s old, entry {head['seq']}"
        )
    top.append(
        f"   {requests['per_second']:.1f} requests/s, p99 {_duration(requests['p99'])},"
        f" {requests['errors_per_second']:.1f} errors/s"
    )
    parts: list[RenderableType] = [top]
    parts += [Text(text, "red") for text in report["troubles"]]
    fleet = report["fleet"]
    if not fleet["shared"]:
        parts.append(Text("One machine: its store is not shared, so there is no fleet.", "dim"))
    parts.append(
        _table(
            ("follower", "state", "head", "lag", ""),
            [
                (one["address"], one["state"], one["height"], one["lag"], one["reason"])
                for one in fleet["followers"] or ()
            ],
        )
    )
    parts.append(
        _table(
            ("bridge", "state", "head", "lag", ""),
            [(one["name"], one["state"], one["height"], one["lag"], one["reason"]) for one in fleet["bridges"] or []],
        )
    )
    if report.get("pool"):
        parts.append(
            _table(
                ("worker", "state", "done", "failed", ""),
                [
                    (one["name"], one["state"], one["done"], one["failed"], f"{one['deferred']:,} put off")
                    for one in report["pool"]
                ],
            )
        )
    parts.append(_timeline(report["timeline"]))
    parts.append(
        _table(
            ("method", "", "requests/s", "p99", ""),
            [
                (one["name"], "", f"{one['per_second']:.1f}", _duration(one["p99"]), "")
                for one in requests["methods"][:_METHODS]
            ],
        )
    )
    parts.append(_coverage(report.get("coverage") or []))
    parts.append(
        _table(
            ("source", "state", "failures", "", ""),
            [(one["name"], one["standing"], one["failures"], "", "") for one in report["sources"]],
        )
    )
    store = report.get("store")
    if store is not None:
        figures = ", ".join(f"{name} {figure:,}" for name, figure in store["figures"].items())
        parts.append(Text(f"store {store['url']}, state {store['state']}, {figures}"))
        if store.get("keeps_text"):
            parts.append(Text("keeps " + "; ".join(store["keeps_text"]), "dim"))
    for one in report["errors"][:_ERRORS]:
        when = time.strftime("%H:%M:%S", time.gmtime(one["at"]))
        parts.append(Text(f"{when} {one['level']} {one['text']}", "yellow" if one["level"] == "warning" else "red"))
    return Group(*parts)


def _state(word: str) -> Any:
    from rich.text import Text

    return Text(word, _COLOURS.get(word, "red"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return "> 10 s" if seconds >= 10 else f"{seconds * 1000:.3g} ms"


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> RenderableType:
    """Five columns; texts are shown as they are, never as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place in (2, 3) else "left", no_wrap=place < 4)
    for first, state, *more in rows:
        table.add_row(Text(str(first)), _state(state), *(Text("–" if one is None else str(one)) for one in more))
    return table


def _timeline(timeline: dict[str, Any] | None) -> RenderableType:
    """One sign an epoch: ● a tipset, · a null round, and below it ○ for a reverted one."""
    from rich.text import Text

    if not timeline or not timeline["tipsets"]:
        return Text("no head change has been read yet", "dim")
    tipsets = timeline["tipsets"]
    held = {one["height"] for one in tipsets if one["on_chain"]}
    left = {one["height"] for one in tipsets if not one["on_chain"]}
    top = max(held | left)
    epochs = range(max(min(held | left), top - timeline["epochs"] + 1), top + 1)
    line = Text("epochs ", "dim")
    line.append("".join("●" if epoch in held else "·" for epoch in epochs), "blue")
    line.append(f" {top}\n       ", "dim")
    line.append("".join("○" if epoch in left else " " for epoch in epochs), "red")
    if timeline["reorgs"]:
        newest = timeline["reorgs"][-1]
        line.append(f" newest reorg: {newest['depth']} at epoch {newest['height']}", "red")
    return line


def _coverage(coverage: list[dict[str, Any]]) -> RenderableType:
    """A bar an index, over the epochs of all of them."""
    from rich.text import Text

    ends = [end for one in coverage for span in one["ranges"] for end in span]
    text = Text()
    if not ends:
        return Text("no index covers any epoch yet", "dim")
    low, span = min(ends), max(ends) - min(ends) + 1
    for one in coverage:
        cells = [
            any(first <= low + (cell + 0.5) * span / _BAR <= last + 1 for first, last in one["ranges"])
            for cell in range(_BAR)
        ]
        text.append(f"{one['index'].replace('_', ' '):10}")
        text.append("".join("█" if cell else "░" for cell in cells), "blue")
        if one["ranges"]:
            text.append(f" epochs {one['ranges'][0][0]} to {one['ranges'][-1][1]}")
        text.append("\n")
    text.rstrip()
    return text
