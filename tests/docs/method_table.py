"""The page docs/methods.md, made from the registry. `make docs-tables` writes it."""

from __future__ import annotations

from typing import Final

from rpc.known import known_methods
from rpc.registry import REGISTRY, V1, Cache, Method, Registry, Versions
from tests.docs.gateway_table import gateway_table

_HOW: Final = {
    "decoded": "from the objects of the chain, decoded",
    "indexed": "from index rows that the bridge or an import wrote",
    "recorded": "from what a full node answered, stored beside the tipset",
    "executed": "by the virtual machine beside the followers; where there is none, as forwarded",
    "forwarded": "by a full node, at the head that the request sees; without a node an error",
    "local": "by the process itself",
}


def _versions(method: Method) -> str:
    return " ".join((version.name or "").lower() for version in Versions if method.versions & version)


def table(registry: Registry = REGISTRY) -> str:
    """The document. `register_all` must have run."""
    lines = [
        "# Methods",
        "",
        "`make docs-tables` writes this page from the registry of methods; a test compares the two.",
        "",
        'The column "answered" says where an answer comes from:',
        "",
        *(f"* **{how}**: {text}" for how, text in _HOW.items()),
        "",
        "Cost: what an answer reads. free: memory; chain: a few objects; state: a path down a state tree; scan: many",
        "objects; wait: nothing until something happens; heavy: whole trees; execute: a virtual machine elsewhere.",
        "Calls of scan, heavy and execute run in a queue for each cost (settings `scan_parallel`, `heavy_parallel`,",
        "`execute_parallel`).",
        "",
        "Kept: what an answer that is kept as bytes may depend on (see [Kept answers](operating.md#kept-answers)).",
        "",
        "| method | versions | answered | permission | cost | kept | does |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in sorted(registry, key=lambda m: (m.name, -int(m.versions))):
        aliases = "".join(f" `{alias}`" for alias in method.aliases)
        does = method.doc.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(
            f"| `{method.name}`{aliases} | {_versions(method)} | {method.answered} "
            f"| {method.perm} | {method.cost.value} | {(method.cache or Cache.NEVER).value} | {does} |"
        )
    served = set(registry.names(V1))
    missing = sorted(name for name in known_methods()[V1] if name not in served and name.startswith("Filecoin."))
    lines += ["", "## The methods of lotus-gateway", "", *gateway_table(registry)]
    lines += [
        "",
        "## Known and not served yet",
        "",
        'These answer error -32004, not "method not found":',
        "",
        ", ".join(f"`{name.removeprefix('Filecoin.')}`" for name in missing),
        "",
    ]
    return "\n".join(lines)
