"""Look the locked packages up in a database of known vulnerabilities: `make audit`, part of `make check`.

    python requirements/audit.py [--osv-url URL] FILE

Exit codes: 0 no known vulnerability, 1 a package has one, 2 pip-audit itself failed. The database is asked over the
network: first the package index's, then OSV's. Where neither can be asked, or a package is not in it, that is printed
and is no failure: a machine without a network can run `make check`, but nobody reads "no vulnerability" where none was
looked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: seconds for one request, and for all of them
_REQUEST_SECONDS = 15
_TOTAL_SECONDS = 300
#: how the last line of an error begins that is the network's, not ours (requests' and pip-audit's)
_NETWORK_ERRORS = ("requests.exceptions.", "urllib3.exceptions.", "ConnectionError", "Could not connect")


class AuditFailed(Exception):
    """pip-audit ended with neither a report nor a network error."""


@dataclass
class Findings:
    """What one database said: vulnerabilities as lines of text, and which packages it could not tell of."""

    vulnerable: list[str] = field(default_factory=list)
    checked: int = 0
    unchecked: list[str] = field(default_factory=list)
    #: why nothing was checked, if so
    reason: str = ""


def read_report(report: dict[str, Any]) -> Findings:
    """The findings in a JSON report of pip-audit."""
    found = Findings()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            found.unchecked.append(package["name"])
            found.reason = "the database does not know them"
            continue
        found.checked += 1
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            found.vulnerable.append(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    return found


def ask(requirements: Path, service: Sequence[str]) -> Findings:
    """Have pip-audit look up every package of a lock file. Errors: AuditFailed."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--require-hashes",
               "--disable-pip", "--progress-spinner", "off", "--format", "json",
               "--timeout", str(_REQUEST_SECONDS), *service]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOTAL_SECONDS)
    except subprocess.TimeoutExpired:
        return Findings(reason=f"no answer within {_TOTAL_SECONDS} s")
    if done.stdout.lstrip().startswith("{"):
        return read_report(json.loads(done.stdout))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    if any(text in last for text in _NETWORK_ERRORS):
        return Findings(reason=last.partition(":")[0].rpartition(".")[2])
    raise AuditFailed(f"exit code {done.returncode}: {last}")


def audit(requirements: Path, services: Sequence[Sequence[str]]) -> int:
    """Ask each service until one has told of every package; print what was found. The result is the exit code."""
    unchecked: list[str] | None = None
    reasons: list[str] = []
    for service in services:
        try:
            found = ask(requirements, service)
        except AuditFailed as error:
            print(f"audit: pip-audit failed: {error}", file=sys.stderr)
            return 2
        if found.vulnerable:
            print(f"audit: {len(found.vulnerable)} known vulnerabilities in {requirements}:")
            print("\n".join(f"  {line}" for line in found.vulnerable))
            return 1
        if found.checked and not found.unchecked:
            print(f"audit: {found.checked} packages, no known vulnerability")
            return 0
        if found.checked and (unchecked is None or len(found.unchecked) < len(unchecked)):
            unchecked = found.unchecked
        reasons.append(found.reason)
    reason = "; ".join(reasons)
    if unchecked is None:
        print(f"audit: NOT CHECKED: no database of vulnerabilities could be asked ({reason})")
    else:
        print(f"audit: NOT CHECKED: {len(unchecked)} packages: {', '.join(unchecked)} ({reason})")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Look locked packages up in a database of known vulnerabilities.")
    parser.add_argument("requirements", type=Path, help="a lock file with hashes")
    parser.add_argument("--osv-url", metavar="URL", help="ask this OSV service alone")
    args = parser.parse_args(arguments)
    osv = ["--vulnerability-service", "osv"]
    services = [[*osv, "--osv-url", args.osv_url]] if args.osv_url else [["--vulnerability-service", "pypi"], osv]
    return audit(args.requirements, services)


if __name__ == "__main__":
    sys.exit(main())
