"""`make attack`: every attack on a fresh follower, and the table of docs/security.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.attack.cases import ATTACKS
from tests.attack.run import Stores, attack, too_slow


def main() -> int:
    """Exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ATTACKS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each runs (default 10)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in ATTACKS]
    if unknown:
        parser.error(f"no attack {unknown[0]!r}")
    faults: list[str] = []
    print("| attack | failed | p50 ms | p99 ms | worst ms | peak MiB | what the attacker saw |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        stores = Stores(Path(folder))
        for name in args.names or ATTACKS:
            result = attack(name, stores, args.seconds)
            print(result.row(), flush=True)
            slow = too_slow(result)
            faults += [f"{name}: {fault}" for fault in (*result.faults, *([slow] if slow else []))]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
