"""`journalctl -u UNIT -n LINES` over the logs that the stand-in for `systemctl` writes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

parser = argparse.ArgumentParser(prog="journalctl")
parser.add_argument("-u", dest="unit", required=True)
parser.add_argument("-n", dest="lines", type=int, default=10)
arguments = parser.parse_args()
log = Path(os.environ["MACHINE"], "var", "log", f"{arguments.unit}.log")
print("\n".join(log.read_text(errors="replace").splitlines()[-arguments.lines :]))
