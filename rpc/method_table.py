"""The page docs/methods.md, made from the registry. `make docs-tables` writes it."""

from __future__ import annotations

from typing import Final

from rpc.known import known_methods
from rpc.registry import REGISTRY, V1, Method, Registry, Versions

_HOW: Final = {
    "decoded": "read and decoded from the chain's objects",
    "indexed": "looked up in an index kept by the bridge and by import",
    "recorded": "what a full node said, kept beside the tipset",
    "forwarded": "asked of a full node, pinned to the request's head; an error without one",
    "local": "known to the process itself",
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
        "How a method is answered:",
        "",
        *(f"* **{how}**: {text}" for how, text in _HOW.items()),
        "",
        "Cost: free (memory), chain (a few objects), state (a path down a tree), scan (many objects), heavy (whole",
        "trees, in a lane of its own), execute (a virtual machine elsewhere).",
        "",
        "| method | versions | answered | permission | cost | does |",
        "|---|---|---|---|---|---|",
    ]
    for method in sorted(registry, key=lambda m: (m.name, -int(m.versions))):
        aliases = "".join(f" `{alias}`" for alias in method.aliases)
        does = method.doc.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(
            f"| `{method.name}`{aliases} | {_versions(method)} | {method.answered} "
            f"| {method.perm} | {method.cost.value} | {does} |"
        )
    served = set(registry.names(V1))
    missing = sorted(name for name in known_methods()[V1] if name not in served and name.startswith("Filecoin."))
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
