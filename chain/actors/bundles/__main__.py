"""Write the files of this folder from Lotus' source: `python -m chain.actors.bundles builtin_actors_gen.go`.

The argument is Lotus' `build/builtin_actors_gen.go`. Files of versions that it does not list stay as they are.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

_BUNDLE: Final = re.compile(
    r'Network:\s*"(?P<network>[^"]+)",\s*Version:\s*(?P<version>\d+),\s*(?:BundleGitTag:\s*"[^"]*",\s*)?'
    r'ManifestCid:\s*cid\.MustParse\("(?P<manifest>\w+)"\),\s*Actors:\s*map\[string\]cid\.Cid\{(?P<actors>[^}]*)\}'
)
_ACTOR: Final = re.compile(r'"(\w+)":\s*cid\.MustParse\("(\w+)"\)')


def read_bundles(source: str) -> dict[int, dict[str, Any]]:
    """By actors version and network, what `EmbeddedBuiltinActorsMetadata` lists. Errors: ValueError, for none."""
    found: dict[int, dict[str, Any]] = {}
    for match in _BUNDLE.finditer(source):
        entry = {"manifest": match["manifest"], "actors": dict(_ACTOR.findall(match["actors"]))}
        found.setdefault(int(match["version"]), {})[match["network"]] = entry
    if not found or sum(map(len, found.values())) != source.count("ManifestCid:"):
        raise ValueError("not a list of actors' bundles as Lotus writes it")
    return found


def write_bundles(source: Path, folder: Path) -> list[Path]:
    """Write a file for each actors version in Lotus' source; the files written. Errors: ValueError, OSError."""
    written = []
    for version, networks in sorted(read_bundles(source.read_text()).items()):
        path = folder / f"v{version}.json"
        path.write_text(json.dumps(networks, indent=1, sort_keys=True) + "\n")
        written.append(path)
    return written


if __name__ == "__main__":
    for path in write_bundles(Path(sys.argv[1]), Path(__file__).parent):
        print(path)
