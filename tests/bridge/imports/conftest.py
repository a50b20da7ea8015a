"""Fixtures of the imports' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches.import_car import make_car
from tests.support.bridge.imported import network_file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up chain of a few epochs: `made.car`, `network.json`."""
    folder = tmp_path_factory.mktemp("made")
    make_car(folder / "made.car", 3_000_000, state_objects=300)
    network_file(folder)
    return folder
