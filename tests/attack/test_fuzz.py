"""The short form of `make fuzz`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.attack.fuzz import run

#: seconds
SHORT = 15.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses several loopback addresses")


@pytest.mark.timeout(300)
def test_whatever_is_sent_the_follower_lives_on(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    seen = run(SHORT, 1, tmp_path)
    print(dict(seen.counts))
    assert not seen.faults
    assert seen.counts["examples"] > 25
