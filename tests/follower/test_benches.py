"""Every benchmark runs: its short form, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benches.__main__ import BENCHES
from tests.support.paths import ROOT
from tests.support.processes import clean_environment


@pytest.mark.long
@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benches", "--short", name],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"== {name} (" in done.stdout


def test_an_unknown_benchmark_is_named() -> None:
    command = [sys.executable, "-m", "benches", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no benchmark 'nothing'; there are store," in done.stderr
