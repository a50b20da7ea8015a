"""The capacity model: its arithmetic, the model in the package, and what `follower plan` prints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.load import fit as fit_file
from benches.load.fit import among_others, by_method, fit, full_cores, head_cost, predict
from follower.cli import build_parser
from follower.commands.command import CANNOT_RUN, DONE
from follower.commands.load import capacity as model_file
from follower.commands.load.capacity import BadModel, Case, Estimate, Model, plan
from follower.commands.load.made_mix import SHARES
from follower.commands.load.plan import cost_classes

figures = (
    st.lists(st.floats(0.001, 1e6), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda some: Estimate(some[1], some[0], some[2]))
)
rates = st.floats(1, 1e7)

MODEL = Model(
    methods={"a": Estimate(100, 80, 120)},
    classes={"free": Estimate(10, 5, 20), "state": Estimate(200, 100, 400)},
    answer_bytes={"a": 1000, "free": 100, "state": 500},
    kept_us=Estimate(12, 10, 20),
    full_cores=Estimate(1.25, 1, 1.5),
    among_others=Estimate(1, 1, 1),
    head_ms=Estimate(30, 15, 60),
    trips=((1, Estimate(4, 4, 4)), (16, Estimate(2, 2, 2)), (256, Estimate(1, 0.5, 1))),
    trips_actors=1_000_000,
    balancer_us=Estimate(20, 10, 30),
    read_us=Estimate(100, 50, 150),
    write_us=Estimate(100, 50, 150),
    object_us=Estimate(100, 50, 200),
    object_bytes=Estimate(500, 400, 600),
    measured={"how": "made up"},
)
CLASSES = {"a": "state", "b": "free", "c": "state"}


@given(figures, figures, st.floats(0, 1000))
def test_arithmetic_keeps_the_ends(one: Estimate, other: Estimate, factor: float) -> None:
    for made, exact in (
        (one + other, lambda a, b: a + b), (one * other, lambda a, b: a * b), (one / other, lambda a, b: a / b),
    ):  # fmt: skip
        # whatever the true figures are, the result lies between the ends
        for a in (one.low, one.value, one.high):
            for b in (other.low, other.value, other.high):
                assert made.low <= exact(a, b) * (1 + 1e-9)
                assert exact(a, b) <= made.high * (1 + 1e-9)
        assert made.value == exact(one.value, other.value)
    assert one.times(factor).value == one.value * factor
    whole = one.ceil()
    assert all(float(end).is_integer() and end >= 1 for end in (whole.low, whole.value, whole.high))
    assert whole.value >= one.value - 1e-6


@pytest.mark.parametrize("ends", [(1, 2, 3), (2, 1, 1), (1, -1, 2), (1, 1, math.inf), (math.nan, 1, 2)])
def test_ends_out_of_order_are_refused(ends: tuple[float, float, float]) -> None:
    with pytest.raises(BadModel):
        Estimate(*ends)


def test_a_mix_costs_what_its_methods_cost() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    cost = MODEL.request_us(shares, CLASSES)
    assert cost.value == pytest.approx(0.5 * 100 + 0.3 * 10 + 0.2 * 200)
    assert (cost.low, cost.high) == pytest.approx((0.5 * 80 + 0.3 * 5 + 0.2 * 100, 0.5 * 120 + 0.3 * 20 + 0.2 * 400))
    assert MODEL.bytes_each(shares, CLASSES) == pytest.approx(500 + 30 + 100)
    # a quarter is made, three quarters are kept
    assert MODEL.request_us(shares, CLASSES, 0.75).value == pytest.approx(0.25 * 93 + 0.75 * 12)
    assert MODEL.request_us(shares, CLASSES, 1).value == 12


def test_reads_fall_with_the_cache_and_grow_with_the_chain() -> None:
    def trips(megabytes: float, actors: int = 1_000_000) -> Estimate:
        return MODEL.trips_each({"a": 0.5, "b": 0.5}, CLASSES, megabytes, actors)

    # half of the mix reads no state
    assert [trips(size).value for size in (0.5, 1, 16, 256, 1024)] == [2, 2, 1, 0.5, 0.5]
    assert trips(4).value == pytest.approx(1.5)
    assert trips(256, 32_000_000).value > trips(256, 2_000_000).value > trips(256).value
    # 32 times the actors are a level more, and a cache that is 32 times too small
    assert trips(512, 32_000_000).value == pytest.approx((2 + 1) / 2)


def test_a_plan_by_hand() -> None:
    case = Case(rps=10_000, cores=4, utilisation=0.5, cache_mb=256, actors=1_000_000, objects=3000, block_seconds=30)
    made = plan(MODEL, case, {"a": 1.0}, CLASSES)
    assert made.request_us.value == 125
    # a core gives 0.5 - 0.001 s a second; 10,000 requests take 1.25 s
    assert made.processes.value == 3
    assert made.machines.value == 1 + 1
    assert made.reads == Estimate(10_000, 5_000, 10_000)
    # 10,000 reads of 2 copies at 100 us, 100 objects/s of 3 copies: 2.03 cores of 2 a node; as many as copies
    assert made.database_nodes.value == 3
    assert made.bridge_share.value == pytest.approx(0.01)
    assert made.disk.value == 500 * 3000 * 3780 * 3
    assert made.outbound == 1e7
    by_name = {limit.name: limit.rps for limit in made.limits}
    assert by_name["follower"].value == pytest.approx(4 * 0.499e6 / 125)
    assert by_name["balancer"].value == pytest.approx(4 * 0.5e6 / 20)
    assert by_name["network"].value == pytest.approx(1.25e9 * 0.5 / 1000)
    assert by_name["database"].value == pytest.approx(3 * 4 * 0.5e6 / 200)
    assert [limit.rps.value for limit in made.limits] == sorted(limit.rps.value for limit in made.limits)


@given(rates, rates, st.floats(0.1, 1), st.floats(1, 1000))
def test_more_requests_never_need_less(rps: float, more: float, utilisation: float, cache: float) -> None:
    small = Case(rps=min(rps, more), utilisation=utilisation, cache_mb=cache)
    large = replace(small, rps=max(rps, more))
    one, other = (plan(MODEL, case, {"a": 0.4, "b": 0.6}, CLASSES) for case in (small, large))
    for name in ("processes", "machines", "balancers", "database_nodes", "reads"):
        few, many = getattr(one, name), getattr(other, name)
        assert few.low <= many.low
        assert few.value <= many.value
        assert few.high <= many.high
        assert few.low <= few.value <= few.high
    # what is planned carries the load
    free = utilisation - 0.03 / 30
    assert other.processes.value * free >= large.rps * other.request_us.value * 1e-6 * (1 - 1e-6)
    assert other.database_nodes.value >= 3


@pytest.mark.parametrize(
    "change", [{"rps": 0}, {"rps": math.nan}, {"cores": 0}, {"utilisation": 1.5}, {"block_seconds": -1}, {"kept": 1.1}]
)
def test_a_case_that_makes_no_sense_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(BadModel, match=next(iter(change))):
        replace(Case(rps=1), **change)


def test_heads_that_fill_a_core_are_named() -> None:
    with pytest.raises(BadModel, match="heads"):
        plan(MODEL, Case(rps=1, block_seconds=0.05), {"a": 1.0}, CLASSES)
    with pytest.raises(BadModel, match="add up"):
        plan(MODEL, Case(rps=1), {"a": 0.5}, CLASSES)


def test_the_model_of_the_package_is_whole() -> None:
    model = Model.load()
    assert set(model.classes) >= {"free", "chain", "state", "scan", "heavy", "execute", "wait"}
    assert set(model.answer_bytes) >= {*model.classes, *model.methods}
    # every method of the usual mix was measured by itself
    assert set(SHARES) <= set(model.methods)
    assert list(model.trips) == sorted(model.trips, key=lambda trip: trip[0])
    assert {"date", "machine", "how"} <= set(model.measured)
    assert model.full_cores.value >= 0.8


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"{}", b'{"format":2}', b'{"format":1}', b'{"format":1,"methods":{"a":[1]}}']
)
def test_a_file_that_is_no_model_is_named(data: bytes) -> None:
    with pytest.raises(BadModel):
        Model.load(data)


def run(*arguments: str) -> int:
    args = build_parser().parse_args(["plan", *arguments])
    code: int = args.run({}, args)
    return code


def test_the_plan_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--rps", "100000") == DONE
    out = capsys.readouterr().out
    assert "100,000 requests/s of the usual mix" in out
    assert "counted by their cost class" not in out
    for text in ("serving processes", "follower machines", "database nodes", "balancers", "what is full first"):
        assert text in out
    mix = tmp_path / "mix.jsonl"
    mix.write_bytes(b'{"method":"Filecoin.StateMarketBalance"}\n{"method":"some_other"}\n{"method":"eth_chainId"}\n')
    assert run("--rps", "10", "--mix", str(mix)) == DONE
    assert "exact: Filecoin.StateMarketBalance (state), some_other (execute)" in capsys.readouterr().out


def test_a_case_that_cannot_be_planned_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").write_bytes(orjson.dumps([]))
    for arguments, text in (
        (["--rps", "0"], "rps is 0"),
        (["--rps", "1", "--mix", str(tmp_path / "none")], "No such file"),
        (["--rps", "1", "--model", str(tmp_path / "model")], "cannot be read"),
        (["--rps", "1", "--model", str(tmp_path / "none")], "No such file"),
    ):
        assert run(*arguments) == CANNOT_RUN
        assert text in capsys.readouterr().err


def test_cost_classes_are_the_registrys() -> None:
    assert cost_classes({"eth_chainId": 1, "Filecoin.StateGetActor": 1, "eth_getLogs": 1, "nothing": 1}) == {
        "eth_chainId": "free", "Filecoin.StateGetActor": "state", "eth_getLogs": "scan", "nothing": "execute",
    }  # fmt: skip


# --- the fit -------------------------------------------------------------------------------------------------


@given(st.floats(5, 500), st.floats(0.5, 100), st.integers(1000, 100_000), st.integers(1000, 100_000))
def test_the_cost_of_a_head_is_found_again(request_us: float, head_ms: float, many: int, few: int) -> None:
    rows = [
        {"interval": every, "seconds": 10.0, "requests": asked,
         "cpu_seconds": asked * request_us * 1e-6 + 10 / every * head_ms * 1e-3}
        for every, asked in ((0.3, many), (3.0, few))
    ]  # fmt: skip
    heads = [10 / 0.3 / many, 10 / 3 / few]
    if abs(heads[0] - heads[1]) < 1e-6:
        return
    assert head_cost(rows)[0] == pytest.approx(head_ms, rel=0.01, abs=0.01)


def test_what_full_cores_add_is_a_ratio_of_methods() -> None:
    alone = {name: [10.0, 12.0] for name in "abcdefgh"}
    together = {
        name: [11.0 * factor] for name, factor in zip("abcdefgh", (1, 1.1, 1.1, 1.2, 1.2, 1.3, 1.3, 9), strict=True)
    }
    assert full_cores(alone, together) == [1.2, 1.1, 1.3]
    rows = [{"followers": 1, "method": "a", "cpu_us": 5.0, "requests": n} for n in (3, 300)]
    assert by_method(rows, 1) == {"a": [5.0]}


def test_what_a_method_costs_more_among_others_is_fitted_to_another_mix() -> None:
    alone = {"a": [10.0, 10.0], "b": [30.0]}
    rows = [
        {"followers": count, "shares": {"a": 0.5, "b": 0.5}, "cpu_us": cost}
        for count, cost in ((1, 22.0), (1, 26.0), (1, 24.0), (3, 99.0))
    ]
    assert among_others(rows, alone, {}) == [1.2, 1.1, 1.3]
    assert among_others([], alone, {"among_others": [1.1, 1, 1.2]}) == [1.1, 1, 1.2]
    assert among_others([], alone, {}) == [1, 1, 1]


def test_a_method_costs_more_in_a_mix_than_alone() -> None:
    model, shares = replace(MODEL, among_others=Estimate(1.5, 1, 2)), {"a": 0.5, "b": 0.5}
    assert model.request_us({"a": 1.0}, CLASSES) == Estimate(100, 80, 120)
    assert model.request_us(shares, CLASSES) == Estimate(55 * 1.5, 42.5, 140)
    # a kept answer is found without what the methods do
    assert model.request_us(shares, CLASSES, kept=1).value == 12
    assert model.request_us(shares, CLASSES, kept=0.5).value == 55 * 1.5 / 2 + 6


def test_a_part_of_the_costs_changes_that_part_of_a_model() -> None:
    package = Path(model_file.__file__).with_name("capacity.json").read_bytes()
    base, others = orjson.loads(package), orjson.loads(Path(fit_file.__file__).with_name("others.json").read_bytes())
    rows = [
        {"followers": count, "method": "eth_chainId", "cpu_us": cost, "requests": 100, "bytes": 40}
        for count, cost in ((1, 10.0), (3, 13.0))
    ]
    found = {"methods": rows, "classes": cost_classes(base["methods"]), "measured": "today", "machine": {"cores": 2}}
    made = fit(found, others, base)
    assert made["methods"] == base["methods"] | {"eth_chainId": [10.0, 10.0, 10.0]}
    assert made["answer_bytes"]["eth_chainId"] == 40 and made["full_cores"] == [1.3, 1.3, 1.3]
    for same in ("head_ms", "balancer_us", "trips", "kept_us"):
        assert made[same] == base[same]
    Model.load(orjson.dumps(made))


def test_a_prediction_counts_requests_and_heads() -> None:
    row = {"followers": 2, "shares": {"a": 1.0}, "seconds": 10.0, "interval": 1.0, "requests": 10_000}
    # 100 us 1.25 times, and 20 heads of 30 ms over 10,000 requests
    assert predict(MODEL, row, CLASSES).value == pytest.approx(125 + 60)
    assert predict(MODEL, {**row, "followers": 1}, CLASSES).value == pytest.approx(100 + 30)
