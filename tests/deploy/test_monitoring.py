"""Alert rules and the dashboard name metrics and labels that exist; Prometheus' own tool checks and tries the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.paths import ROOT

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "lotus-follower.json"
_ROW: Final = re.compile(r"^\| `(follower_\w+)` \| (\w+) \|", re.MULTILINE)
_NAME: Final = re.compile(r"\bfollower_\w+")
_ALERT: Final = re.compile(r"^ +- alert: (\w+)$\n +expr: (.*)$", re.MULTILINE)


def metrics() -> set[str]:
    """The names of all series. docs/metrics.md is written from the code; another test compares them."""
    names = set()
    for name, kind in _ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return names


def alerts() -> dict[str, str]:
    """The expression of each alert."""
    return dict(_ALERT.findall((PROMETHEUS / "alerts.yml").read_text()))


def queries() -> list[tuple[str, str]]:
    """(panel, query) of the dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]


def unknown(query: str) -> set[str]:
    return set(_NAME.findall(query)) - metrics()


def test_every_alert_names_metrics_that_exist() -> None:
    found = alerts()
    assert len(found) > 20
    for name, expression in found.items():
        assert not unknown(expression), f"{name}: {unknown(expression)}"
    assert unknown("rate(follower_bridge_nothing_total[1m])") == {"follower_bridge_nothing_total"}


def test_every_query_of_the_dashboard_names_a_metric_that_exists() -> None:
    found = queries()
    assert len(found) > 30
    for panel, query in found:
        assert _NAME.search(query), f"{panel}: {query}"
        assert not unknown(query), f"{panel}: {unknown(query)}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_alert_has_an_entry_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    entries = {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    rules = (PROMETHEUS / "alerts.yml").read_text()
    for name in alerts():
        assert name.lower() in entries, f"docs/troubleshooting.md has no entry {name}"
        assert f'runbook: "docs/troubleshooting.md#{name.lower()}"' in rules
    named = {name.lower() for name in alerts()}
    begin = page.index("## Alerts")
    in_section = re.findall(r"^### (\w+)$", page[begin : page.index("\n## ", begin + 1)], re.MULTILINE)
    assert {heading.lower() for heading in in_section} == named, "an entry for an alert that does not exist"


def test_the_rule_tests_try_alerts_that_exist() -> None:
    tried = set(re.findall(r"alertname: (\w+)", (PROMETHEUS / "alerts.test.yml").read_text()))
    assert tried <= set(alerts())
    assert len(tried) >= 9


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]],
)
def test_prometheus_own_tool_accepts_them(arguments: list[str]) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([tool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    # `check rules` reads each query as that of a recording rule
    rules = [{"record": f"query_{number}", "expr": query} for number, (_, query) in enumerate(queries())]
    (tmp_path / "query.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [tool, "check", "rules", "query.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
