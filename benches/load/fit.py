"""Fits the capacity model to what `benches.load.costs` measured, and checks it against runs that it was not fitted to.

    python -m benches.load.fit costs.json --out follower/commands/load/capacity.json

A method costs the median of its turns with one follower; least and most are those of the turns. A cost class is the
median, least and most of its methods. What a head costs comes from one follower with a head each 0.3 s and each 3 s.
All are brought to one speed of the machine, by the fixed work beside each: the speed that a tenth of the rows had.
What full cores add is the median ratio of three followers' methods to one's. What a method costs more among others than
alone is measured with the methods of the usual mix in equal shares. Then the mix with a head each second, with
1, 2 and 3 followers, is predicted and compared with the measured figures. Exit code 1 where one is more than 20 % off.
With `--base`, a part of the costs is enough: the rest is that model's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benches.load.costs import STANDING
from follower.commands.load.capacity import FORMAT, Estimate, Model

#: the share by which a prediction may be off
ALLOWED = 0.2
#: parts of the costs that are rows with the fixed work beside them
_ROWS = ("methods", "heads", "check", "among")
#: requests of a row that are needed for a figure
_LEAST_REQUESTS = 20


def at_one_speed(rows: Iterable[dict[str, Any]], reference: float) -> None:
    """Bring processor times to those of a machine at the speed of the reference: by the fixed work beside each."""
    for row in rows:
        factor = reference / row["probe_us"]
        row["cpu_us"] *= factor
        row["cpu_seconds"] *= factor


def estimate(values: Sequence[float]) -> list[float]:
    """[median, least, most]."""
    return [round(one, 3) for one in (median(values), min(values), max(values))]


def by_method(rows: Iterable[dict[str, Any]], followers: int) -> dict[str, list[float]]:
    """Microseconds of each turn, by method."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["followers"] == followers and row["requests"] >= _LEAST_REQUESTS:
            found[row["method"]].append(row["cpu_us"])
    return found


def full_cores(alone: dict[str, list[float]], together: dict[str, list[float]]) -> list[float]:
    """How many times that a request costs with three followers on full cores: over methods, with their quartiles."""
    ratios = sorted(median(together[name]) / median(alone[name]) for name in alone if together.get(name))
    quarter = len(ratios) // 4
    return [round(one, 3) for one in (median(ratios), ratios[quarter], ratios[-1 - quarter])]


def among_others(rows: Iterable[dict[str, Any]], alone: dict[str, list[float]], base: dict[str, Any]) -> list[float]:
    """How many times that of its methods alone a request of a mix costs one follower: [median, least, most] of turns.

    The rows are of a mix that is not predicted afterwards. Without them, the figure of `base`, or 1.
    """
    found = [
        row["cpu_us"] / sum(share * median(alone[name]) for name, share in row["shares"].items())
        for row in rows
        if row["followers"] == 1
    ]
    return estimate(found) if found else base.get("among_others", [1, 1, 1])


def head_cost(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Milliseconds of CPU that a head costs a serving process.

    With r the CPU of a request and h that of a head, T seconds with a head each i take requests * r + T / i * h.
    Two intervals give both; each pair of turns gives a figure.
    """
    fast = [row for row in rows if row["interval"] < 1]
    slow = [row for row in rows if row["interval"] > 1]
    found = []
    for one in fast:
        for other in slow:
            heads, few = (row["seconds"] / row["interval"] for row in (one, other))
            each = other["requests"] / one["requests"]
            cost = (other["cpu_seconds"] - each * one["cpu_seconds"]) / (few - each * heads)
            found.append(max(0.0, cost) * 1e3)
    return estimate(found)


def fit(found: dict[str, Any], others: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The model's file. `others`: figures that other benchmarks gave. `base`: a model whose figures stand where these
    costs have none."""
    base = base or {"methods": {}, "answer_bytes": {}}
    alone, together = by_method(found["methods"], 1), by_method(found["methods"], 3)
    methods = base["methods"] | {name: estimate(values) for name, values in alone.items()}
    classes = found["classes"]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in methods:
        groups[classes[name]].append(name)
    sizes = {name: base["answer_bytes"].get(name, 0.0) for name in methods} | {
        name: median(row["bytes"] for row in found["methods"] if row["method"] == name and row["requests"])
        for name in alone
    }
    trips = found.get("cache", [])
    return {
        "format": FORMAT,
        "measured": {
            "date": found["measured"],
            "machine": found["machine"],
            "how": "fitted by benches.load.fit to a machine of "
            f"{found['machine']['cores']} cores, {found['measured']}; see docs/scale.md",
        },
        "methods": methods,
        "classes": {
            **{cost: estimate([methods[name][0] for name in names]) for cost, names in groups.items()},
            **others["classes"],
        },
        "answer_bytes": {
            **sizes,
            **{cost: median(sizes[name] for name in names) for cost, names in groups.items()},
            **others["class_bytes"],
        },
        "kept_us": others["kept_us"],
        "full_cores": full_cores(alone, together),
        "among_others": among_others(found.get("among", []), alone, base),
        "head_ms": head_cost(found["heads"]) if "heads" in found else base["head_ms"],
        "trips": [[row["megabytes"], [row["trips"]] * 3] for row in trips] or others["trips"],
        "trips_actors": trips[0]["actors"] if trips else others["trips_actors"],
        "balancer_us": estimate(found["balancer"])
        if "balancer" in found
        else base.get("balancer_us", others["balancer_us"]),
        "read_us": estimate(found["database"]["read_us"]) if "database" in found else others["read_us"],
        "write_us": estimate(found["database"]["write_us"]) if "database" in found else others["write_us"],
        "object_us": others["object_us"],
        "object_bytes": others["object_bytes"],
    }


def check(model: Model, rows: Iterable[dict[str, Any]], classes: dict[str, str]) -> float:
    """Print what is predicted and what was measured for each number of followers; the share that is most off."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["followers"]].append(row)
    worst = 0.0
    for followers, some in sorted(groups.items()):
        measured = median(row["cpu_us"] for row in some)
        predicted = median(predict(model, row, classes).value for row in some)
        off = predicted / measured - 1
        worst = max(worst, abs(off))
        every = some[0]["interval"]
        pace = "no head" if every >= STANDING else f"a head each {every:g} s"
        turns = ", ".join(f"{row['cpu_us']:.1f}" for row in some)
        print(
            f"{followers} followers, {pace}: predicted {predicted:.1f} us a request, "
            f"measured {measured:.1f} ({turns}): {off:+.0%}; {median(row['rate'] for row in some):,.0f} requests/s"
        )
    return worst


def predict(model: Model, row: dict[str, Any], classes: dict[str, str]) -> Estimate:
    """Microseconds of CPU a request of a run: the requests by their methods, and the heads that came in it."""
    request = model.request_us(row["shares"], classes)
    if row["followers"] > 1:
        request = request * model.full_cores
    heads = row["seconds"] / row["interval"] * row["followers"]
    return request + model.head_ms.times(heads * 1e3 / row["requests"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", type=Path, metavar="FILE", help="what benches.load.costs wrote")
    parser.add_argument("--others", type=Path, metavar="FILE", default=Path(__file__).with_name("others.json"),
                        help="figures of other benchmarks (default: those beside this file)")  # fmt: skip
    parser.add_argument("--base", type=Path, metavar="FILE", help="a model whose figures stand where FILE has none")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the model there")
    args = parser.parse_args()
    found = orjson.loads(args.costs.read_bytes())
    base = None if args.base is None else orjson.loads(args.base.read_bytes())
    rows = [row for part in _ROWS for row in found.get(part, [])]
    # a quiet moment of that machine
    probes = sorted(row["probe_us"] for row in rows)
    usual = probes[len(probes) // 10]
    for part in _ROWS:
        at_one_speed(found.get(part, []), usual)
    print(f"the fixed work took {probes[0]:.0f} to {probes[-1]:.0f} us; figures are for {usual:.0f}")
    data = orjson.dumps(fit(found, orjson.loads(args.others.read_bytes()), base), option=orjson.OPT_INDENT_2)
    model = Model.load(data)
    worst = check(model, found["check"], found["classes"])
    print(f"a method among others costs {model.among_others.value:.2f} times that of it alone")
    print(f"three followers on full cores: a request costs {model.full_cores.value:.2f} times that of one alone")
    print(f"a head costs a process {model.head_ms.value:.1f} ms ({model.head_ms.low:.1f}-{model.head_ms.high:.1f})")
    if args.out is not None:
        args.out.write_bytes(data + b"\n")
    raise SystemExit(worst > ALLOWED)


if __name__ == "__main__":
    main()
