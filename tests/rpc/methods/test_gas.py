"""Gas premiums: the percentile, the floor, the noise, and what a real node answered, within the noise."""

from __future__ import annotations

import re

import orjson
import pytest

from follower.commands.comparison import read_records
from rpc.lookup.gas_premium import BLOCK_GAS_TARGET, MedianPremium, with_noise
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded
from tests.support.wire_chain import recorded_services


def median_premium(prices: list[tuple[int, int]], blocks: int) -> int:
    median = MedianPremium(blocks)
    any(median.add(premium, limit) for premium, limit in sorted(prices, reverse=True))
    return median.premium


def test_the_percentile_of_gas() -> None:
    assert median_premium([], 5) == 0
    assert median_premium([(7, 1)], 1) == 7
    # half of the gas and a fortieth: the second message crosses the line
    assert median_premium([(10, BLOCK_GAS_TARGET // 2), (4, BLOCK_GAS_TARGET // 2), (1, 1)], 1) == 7
    assert median_premium([(1, 1), (9, BLOCK_GAS_TARGET)], 1) == 9


def test_noise_is_small() -> None:
    values = [with_noise(1_000_000) for _ in range(300)]
    assert all(950_000 < value < 1_050_000 for value in values)
    assert len(set(values)) > 100


@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_a_real_nodes_answer_within_the_noise(folder: str) -> None:
    register_all()
    dispatcher = Dispatcher(await recorded_services(recorded(f"{folder}/chain.car.zst").parent))
    records = list(read_records(recorded(f"{folder}/rpc.jsonl.zst"), re.compile(r"Filecoin\.GasEstimateGasPremium")))
    assert records
    for record in records:
        body = orjson.dumps({"id": 1, "method": record.method, "params": record.params})
        answer = orjson.loads((await dispatcher.http(1, body))[1])
        assert int(answer["result"]) == pytest.approx(int(record.answer["result"]), rel=0.06)
