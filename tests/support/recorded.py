"""Where the recordings of real Lotus nodes are, for tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: the folder beside the repository, where a checkout of the project finds its recordings
_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "lotus"


def recorded_root() -> Path:
    """The folder of the recordings (which may not be there): `$RECORDED_DATA`, else `../shared/lotus`."""
    told = os.environ.get("RECORDED_DATA")
    return Path(told) if told else _BESIDE


def recorded(name: str) -> Path:
    """The recorded file or folder `name`, e.g. `devnet/rpc.jsonl.zst`.

    A test that asks for what is not there is skipped with the reason; with `REQUIRE_RECORDED=1` (as in CI)
    it fails instead.
    """
    path = recorded_root() / name
    if not path.exists():
        reason = f"recorded data {name} is not at {recorded_root()} (set RECORDED_DATA)"
        if os.environ.get("REQUIRE_RECORDED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
