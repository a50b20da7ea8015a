"""The generated parts of the docs: methods, settings, metrics, decisions, calibnet's upgrades.

`make docs-tables` writes them. A test compares them with the code.

    python -m tests.docs.tables            # write
    python -m tests.docs.tables --check    # name the files that are out of date; exit code 1 if there are any

It needs a process of its own: tests declare methods too, and those do not belong in the docs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY as PROCESS_METRICS
from prometheus_client.core import Metric

import follower.extending.hook_runner  # noqa: F401  (declares)
import leader_bridge.metrics  # noqa: F401  (declares)
from blockstore.archive.tier import ArchiveOptions, Archives
from blockstore.tier.disk import LEAST_BYTES, DiskTier
from blockstore.tier.objects import StoreSource, TieredObjects
from blockstore.tier.sources import RankedSources
from chain.known_networks import CALIBNET
from chain.network import NetworkRecord
from follower.ahead.head_ahead import HeadAhead
from follower.ahead.peer_questions import GivenQuestions
from follower.ahead.start_ahead import StartAhead
from follower.archives import register as register_archives
from follower.commands.config import markdown_table
from follower.execution_stop import ExecutionStop
from follower.executor.client import RemoteExecutor
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from follower.forwarding.shadow import Shadow
from follower.object_tier.open import ObjectTier
from follower.object_tier.open import register as register_tier
from follower.object_tier.peers import PeerObjects
from follower.readiness import ReadinessWatch
from leader_bridge.tables.catalogue import TASKS
from leader_bridge.tables.table import Task
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.lookup.self_check import CheckedExecutor
from rpc.methods import register_all
from rpc.registry import Registry
from rpc.release import BUILD_INFO_DOC, build_info
from rpc.server.limits import ServerSettings
from rpc.server.observe.tracing import Tracing
from rpc.server.server import Server
from tests.docs.method_table import table as method_table
from tests.support.paths import ROOT
from tests.support.wire_node import services

DOCS: Final = ROOT / "docs"
#: the lines around a generated part of a page
_BEGIN: Final = "<!-- {name}: written by `make docs-tables` -->\n"
_END: Final = "<!-- end of {name} -->\n"


def replace_part(page: str, name: str, text: str) -> str:
    """`page` with another text between the two marks of `name`. Errors: ValueError (a mark is missing)."""
    begin, end = _BEGIN.format(name=name), _END.format(name=name)
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"a page lacks the mark {begin if not found else end}".strip())
    return before + begin + text + end + after


def metrics_table(families: Iterable[Metric]) -> str:
    """Name, type and description of each metric of this project."""
    lines = ["| metric | type | is |", "|---|---|---|"]
    for family in sorted(families, key=lambda one: one.name):
        if not family.name.startswith("follower_"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def decisions_table(folder: Path) -> str:
    """Number and title of each page of `docs/adr/`. Errors: ValueError (a first line without "# NUMBER: title")."""
    lines = ["| number | decision |", "|---|---|"]
    for page in sorted(folder.glob("[0-9]*.md")):
        number, _, title = page.read_text().partition("\n")[0].partition(": ")
        if number != f"# {page.name[:4]}" or not title:
            raise ValueError(f"the first line of {page.name} is not `# {page.name[:4]}: title`")
        lines.append(f"| [{page.name[:4]}]({page.name}) | {title} |")
    return "\n".join(lines) + "\n"


def upgrades_table(network: NetworkRecord) -> str:
    """The network versions of a network, and the first epoch of each (an upgrade's height is the last one before)."""
    lines = ["| network version | from epoch |", "|---|---|"]
    for height, version in network.upgrades:
        lines.append(f"| {version} | {height + 1:,} |")
    return "\n".join(lines) + "\n"


def columns_tables(tasks: Iterable[Task]) -> str:
    """The columns of each table that `follower extract` makes."""
    lines: list[str] = []
    for task in tasks:
        table = task.table
        named = "" if task.name == table.name else f" Its task is `{task.name}`."
        lines += [f"### {table.name}", "", f"{table.doc}{named} Key: {', '.join(f'`{one}`' for one in table.key)}.", ""]
        lines += ["| column | type | is |", "|---|---|---|"]
        for column in table.columns:
            kind = "numeric" if column.type.value == "wide" else column.type.value
            lines.append(f"| `{column.name}` | {kind}{', or null' if column.is_nullable else ''} | {column.doc} |")
        lines.append("")
    return "\n".join(lines)


async def _server_metrics() -> list[Metric]:
    server = Server(services(), Registry(), ServerSettings())
    executor = RemoteExecutor(Path("nowhere"))
    executor.register(server.metrics)
    checked = CheckedExecutor(executor, services())
    ExecutionStop(services().store, checked, "").register(server.metrics)
    ReadinessWatch(server.health, heads=None).register(server.metrics)  # type: ignore[arg-type]
    server.metrics.info("follower_build_info", BUILD_INFO_DOC, build_info())
    register_archives(server.metrics, Archives([], ArchiveOptions()))
    node = NodeClient(parse_node_info("http://127.0.0.1:1234")[0])
    route = ForwardRoute([ForwardNode.of(node)])
    route.register(server.metrics)
    Shadow(route, 0.0).register(server.metrics)
    HeadAhead(services(), 1).register(server.metrics)
    StartAhead(server.dispatcher).register(server.metrics)
    GivenQuestions(lambda _: [], None, "").register(server.metrics)
    Tracing("http://127.0.0.1:9", 0, {}).register(server.metrics)
    store = services().store
    objects = TieredObjects(store, RankedSources([StoreSource(store, "store")]))
    with tempfile.TemporaryDirectory() as folder:
        disk = DiskTier(Path(folder), LEAST_BYTES)
        register_tier(server.metrics, ObjectTier(objects, disk, ()), None, PeerObjects(lambda _: None, ""))
        try:
            return list(server.metrics.registry.collect())
        finally:
            disk.close()
            await server.stop(0)


def generated() -> dict[Path, str]:
    """The whole text of each page that has a generated part."""
    register_all()
    operating, metrics, decisions = DOCS / "operating.md", DOCS / "metrics.md", DOCS / "adr" / "README.md"
    declared = list(PROCESS_METRICS.collect())
    of_bridge = [one for one in declared if not one.name.startswith("follower_hook_")]
    of_hooks = [one for one in declared if one.name.startswith("follower_hook_")]
    page = replace_part(metrics.read_text(), "metrics of a follower", metrics_table(asyncio.run(_server_metrics())))
    page = replace_part(page, "metrics of hooks", metrics_table(of_hooks))
    calibnet, tables = DOCS / "calibnet.md", DOCS / "tables.md"
    return {
        calibnet: replace_part(calibnet.read_text(), "upgrades of calibnet", upgrades_table(CALIBNET)),
        DOCS / "methods.md": method_table(),
        tables: replace_part(tables.read_text(), "columns", columns_tables(TASKS.values())),
        operating: replace_part(operating.read_text(), "settings", markdown_table()),
        metrics: replace_part(page, "metrics of a bridge", metrics_table(of_bridge)),
        decisions: replace_part(decisions.read_text(), "decisions", decisions_table(decisions.parent)),
    }


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that differ. The result is the exit code."""
    out_of_date = {path: text for path, text in generated().items() if path.read_text() != text}
    for path, text in out_of_date.items():
        shown = path.relative_to(ROOT)
        if arguments == ["--check"]:
            print(f"{shown} is out of date: run `make docs-tables`")
        else:
            path.write_text(text)
            print(f"wrote {shown}")
    return 1 if out_of_date and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
