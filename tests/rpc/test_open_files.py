"""The limit of open files, in a process of its own: a limit that was lowered cannot be raised again."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from rpc.server.open_files import connections_within
from tests.support.paths import ROOT

_SCRIPT = """
import logging, resource
logging.basicConfig(level=logging.INFO)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 600))
from rpc.server.open_files import raise_open_file_limit
print(raise_open_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_to_the_hard_one_and_told() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "600 (600, 600)\n"
    assert "open files: at most 600" in done.stderr


def test_connections_leave_room_for_other_files(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert connections_within(100_000, 8192) == 8192
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert connections_within(1024, 8192) == 768
    assert "raise the limit of open files" in caplog.text
