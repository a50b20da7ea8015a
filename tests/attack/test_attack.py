"""The short form of `make attack`: each attack for a few seconds, without a verdict on time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.attack.cases import ATTACKS
from tests.attack.run import EXECUTING, Stores, attack

#: seconds that each attack runs
SECONDS = 2.0
#: ... and those that hang in the virtual machine: one call may take twenty
EXECUTING_SECONDS = 30.0
#: the witness waits longer for no answer, on however busy a machine
WORST_SECONDS = 5.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses several loopback addresses")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    yield Stores(tmp_path_factory.mktemp("attack"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in EXECUTING else name for name in ATTACKS]
)
def test_nobody_else_notices(name: str, stores: Stores) -> None:
    executes = name in EXECUTING
    if executes:
        pytest.importorskip("lotus_follower_execution", reason="the virtual machine is not installed (make execution)")
    result = attack(name, stores, EXECUTING_SECONDS if executes else SECONDS)
    print(result.row())
    assert not result.faults
    assert result.witness["worst"] < WORST_SECONDS
