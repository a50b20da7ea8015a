"""The short form of `make attack`: each attack for a few seconds, without a verdict on time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.attack.cases import ATTACKS
from tests.attack.run import Stores, attack

#: seconds that each attack runs
SECONDS = 2.0
#: the witness waits longer for no answer, on however busy a machine
WORST_SECONDS = 5.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses several loopback addresses")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    yield Stores(tmp_path_factory.mktemp("attack"))


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_else_notices(name: str, stores: Stores) -> None:
    result = attack(name, stores, SECONDS)
    print(result.row())
    assert not result.faults
    assert result.witness["worst"] < WORST_SECONDS
