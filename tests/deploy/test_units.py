"""systemd units, the container and the compose file: judged by the tools that are there and by our command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from follower.cli import build_parser
from follower.settings import load_settings
from follower.settings_table import SETTINGS
from tests.support.paths import ROOT

DEPLOY: Final = ROOT / "deploy"
UNITS: Final = sorted((DEPLOY / "systemd").glob("*.service"))
INSTALLED: Final = "/opt/lotus-follower/bin/follower"
#: of systemd-analyze security: 0 is no exposure, 100 all of it
MOST_EXPOSURE: Final = 20


def systemd_analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    return tool


def name_of(unit: Path) -> str:
    return unit.name


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    tool = systemd_analyze()
    # the program has to exist where the unit is checked
    program = Path(sys.executable).parent / "follower"
    assert program.exists()
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(INSTALLED, str(program)))
    # --man=no: the pages of the documentation are installed by a package
    done = subprocess.run(
        [tool, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not told, told


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_a_unit_is_hardened(unit: Path) -> None:
    done = subprocess.run(
        [systemd_analyze(), "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_a_unit_runs_a_subcommand_that_exists(unit: Path) -> None:
    text = unit.read_text()
    (arguments,) = re.findall(rf"^ExecStart={INSTALLED} (.*)$", text, re.MULTILINE)
    options = "--bind 0.0.0.0:443 --certificate /etc/haproxy/tls/rpc.example.com.pem"
    build_parser().parse_args(arguments.replace("$BALANCER_OPTIONS", options).split())
    assert "LimitNOFILE=65536" in text
    assert "NoNewPrivileges=yes" in text
    stop = int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    # a follower takes drain_seconds to finish, and its supervisor 10 s more
    assert stop > load_settings(None, {}, {})["drain_seconds"] + 10


def test_the_settings_file_is_read() -> None:
    file = DEPLOY / "systemd" / "follower.toml"
    settings = load_settings(file, {}, {})
    assert settings["workers"] == 4
    assert {setting.name for setting in SETTINGS} >= set(tomllib.loads(file.read_text()))


# --- containers ----------------------------------------------------------------------------------------


def test_the_container_copies_what_the_wheel_holds() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    copied = {source for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE) for source in line.split()[:-1]}
    for source in copied:
        assert (ROOT / source).exists(), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {one.rstrip("*") for one in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied
    assert set(project["project"]["license-files"]) <= copied
    assert text.count("USER lotus-follower") == 2, "a container that runs as root"


def test_the_compose_file_calls_what_exists() -> None:
    text = (DEPLOY / "container" / "compose.yaml").read_text()
    commands = [json.loads(found) for found in re.findall(r"^ +command: (\[.*\])$", text, re.MULTILINE)]
    assert len(commands) >= 6
    for command in commands:
        build_parser().parse_args(command)
    known = {name for setting in SETTINGS for name in (setting.env, *setting.aliases)}
    named = set(re.findall(r"^ +((?:FOLLOWER|FULLNODE)_\w+):", text, re.MULTILINE))
    assert len(named) >= 5
    assert named <= known, named - known
    services = set(
        re.findall(r"^  ([a-z0-9]+):$", text.partition("services:")[2].partition("\nvolumes:")[0], re.MULTILINE)
    )
    for group in re.findall(r"depends_on: \[(.*)\]", text):
        assert set(group.split(", ")) <= services
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", (DEPLOY / "container" / "Containerfile").read_text(), re.MULTILINE))
    assert set(re.findall(r"target: (\w+)", text)) <= stages


def test_the_balancer_script_is_a_script() -> None:
    script = DEPLOY / "container" / "balancer.sh"
    assert subprocess.run(["sh", "-n", str(script)], timeout=10).returncode == 0
    for arguments in re.findall(r"^follower (.*?)(?: \"\$@\".*)$", script.read_text(), re.MULTILINE):
        build_parser().parse_args(arguments.replace('"', "").split())
