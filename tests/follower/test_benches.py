"""Every benchmark runs: its short form, which takes seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from benches.__main__ import BENCHES
from tests.support.paths import ROOT
from tests.support.processes import clean_environment


@pytest.mark.long
@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_runs(name: str) -> None:
    command = [sys.executable, "-m", "benches", "--short", name]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as bench:  # fmt: skip
        try:
            printed, errors = bench.communicate(timeout=280)
        finally:
            # a killed benchmark would leave its servers behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(bench.pid, signal.SIGTERM)
    assert bench.returncode == 0, errors[-2000:]
    assert f"== {name} (" in printed


def test_an_unknown_benchmark_is_named() -> None:
    command = [sys.executable, "-m", "benches", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no benchmark 'nothing'; there are store," in done.stderr
