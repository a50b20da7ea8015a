"""Folders that tests read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: the checkout
ROOT: Final = Path(__file__).resolve().parents[2]
#: vectors of other implementations, one file a subject
VECTORS: Final = ROOT / "tests" / "vectors"
