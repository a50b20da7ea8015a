"""`make bench`: every benchmark in turn, or those named: `python -m benches import mirror`."""

from __future__ import annotations

import importlib
import platform
import sys
import time

#: name -> (module, arguments of a run that takes minutes at most)
BENCHES: dict[str, tuple[str, list[str]]] = {
    "store": ("benches.store", []),
    "import": ("benches.import_car", []),
    "mirror": ("benches.mirror", []),
    "head": ("benches.head_latency", []),
    "chain": ("benches.chain_methods", []),
    "state": ("benches.state_methods", ["--seconds", "1"]),
    "eth": ("benches.eth_methods", []),
    "tree": ("benches.state_tree", []),
}


def main() -> int:
    """Exit code 0; 2 for a name that is no benchmark."""
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print(f"{platform.machine()}, Python {platform.python_version()}; machines differ: compare within one run")
    for name in names:
        module, arguments = BENCHES[name]
        print(f"\n== {name} ({module})", flush=True)
        began = time.monotonic()
        sys.argv = [module, *arguments]
        importlib.import_module(module).main()
        print(f"-- {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
