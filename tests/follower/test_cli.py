"""The command line: help, errors with their exit codes, and whole processes from import to answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import pytest

from follower.cli import COMMANDS, build_parser, main, subcommand_parsers
from follower.commands.command import CANNOT_RUN, Command
from follower.settings_table import SETTINGS
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, free_port, run_follower
from tests.support.recorded import recorded


def ask(port: int, method: str, *params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/rpc/v1", body, timeout=10) as answer:
        return orjson.loads(answer.read())


def wait_for(port: int, process: subprocess.Popen[str], seconds: float = 60) -> Any:
    """The first answer to ChainHead that has a result."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the process has ended"
        try:
            answer = ask(port, "Filecoin.ChainHead")
        except OSError:
            time.sleep(0.1)
            continue
        if "result" in answer:
            return answer["result"]
    raise AssertionError("no answer in time")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_subcommand_has_help_with_an_example(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "example:" in text
    assert f"follower {command.name}" in text


def documented() -> list[tuple[str, list[str]]]:
    """(setting, its subcommands) of each row of the manual's table."""
    text = (ROOT / "docs" / "operating.md").read_text()
    lines = text[text.index("| setting |") :].splitlines()[2:]
    rows = [row.split(" | ") for row in takewhile(lambda line: line.startswith("|"), lines)]
    return [(row[0].strip("| `"), row[2].split(", ")) for row in rows]


@pytest.mark.parametrize(("name", "commands"), documented(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_documented_setting_has_its_flag(name: str, commands: list[str]) -> None:
    flag = "--" + name.replace("_", "-")
    assert commands
    parsers = subcommand_parsers(build_parser())
    with_flag = {command for command, parser in parsers if flag in parser._option_string_actions}
    all_of = {command.name: command.name.partition(" ")[0] for command in COMMANDS}
    assert with_flag == {command for command, group in all_of.items() if {command, group} & {*commands, "config"}}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_subcommand_is_a_file_of_its_name(command: Command) -> None:
    module = command.run.__module__.removeprefix("follower.commands.")
    named = {
        "import": "import_car",
        "bench": "load.bench",
        "plan": "load.plan",
        "disperse": "disperse.disperse",
        "extract": "extract.extract",
        "sync": "sync.command",
        "worker": "index.worker",
    }
    assert module == named.get(command.name, command.name.replace(" ", ".").replace("-", "_"))
    assert any(setting.is_used_by(command.name) for setting in SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--workers", "0"], "workers is '0', which must be from 1 to 256"),
        (["serve", "--store", "here"], "--store: store must be a store URL"),
        (["serve", "--config", "none.toml"], "none.toml: No such file"),
        (["bridge", "--store", "lmdb:///tmp/x"], "no node to follow"),
        (["bridge", "--node", "s3cret.token:/ip9/1"], "--node: node"),
    ],
)
def test_bad_settings_name_themselves(arguments: list[str], said: str) -> None:
    done = run_follower(*arguments)
    assert done.returncode == CANNOT_RUN
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_the_version_is_told() -> None:
    done = run_follower("--version")
    assert done.returncode == 0
    assert done.stdout == f"follower {version('lotus-follower')}\n"


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    done = run_follower("status", "--store", f"lmdb://{tmp_path}/none")
    assert done.returncode == 1
    assert "has not been made yet" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_prints_every_setting_and_its_source(tmp_path: Path) -> None:
    file = tmp_path / "follower.toml"
    file.write_text('workers = 3\nnode = "tok.en.hidden:http://127.0.0.1:1"\n')
    done = run_follower("config", "--config", str(file), "--listen", "127.0.0.1:7")
    assert done.returncode == 0
    for setting in SETTINGS:
        assert f"{setting.name} = " in done.stdout
    assert f"workers = 3  # from {file}" in done.stdout
    assert "listen = '127.0.0.1:7'  # from --listen" in done.stdout
    assert "tok.en" not in done.stdout


def test_import_of_a_cut_file_names_the_offset(tmp_path: Path) -> None:
    whole = recorded("cars/chain4.car").read_bytes()
    cut = tmp_path / "cut.car"
    cut.write_bytes(whole[: len(whole) // 2])
    done = run_follower("import", str(cut), "--store", f"lmdb://{tmp_path}/store")
    assert done.returncode == 1
    assert "offset" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_then_serve_offline_then_stop(tmp_path: Path) -> None:
    store = f"lmdb://{tmp_path}/store"
    done = run_follower("import", str(recorded("cars/chain4.forest.car.zst")), "--store", store)
    assert done.returncode == 0, done.stderr
    assert "network mainnet" in done.stdout
    status = run_follower("status", "--json", "--store", store)
    told = orjson.loads(status.stdout)
    assert told["head"]["height"] == 3
    assert set(told["held_from"]) == {"messages", "state", "receipts", "events"}
    for name, is_held in told["head"]["held"].items():
        assert (told["held_from"][name] is not None) == is_held
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "follower.cli", "serve", "--store", store, "--listen", f"127.0.0.1:{port}",
         "--workers", "2", "--ready-head-age-epochs", "0"],
        cwd=ROOT, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert wait_for(port, process)["Height"] == 3
        assert ask(port, "Filecoin.StateNetworkName")["result"] == "mainnet"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz?verbose", timeout=10) as answer:
            assert answer.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_up_runs_everything_and_ctrl_c_stops_it(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "follower.cli", "up", "--listen", f"127.0.0.1:{port}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean_environment({"TMPDIR": str(tmp_path)}),
    )  # fmt: skip
    try:
        first = wait_for(port, process)["Height"]
        deadline = time.monotonic() + 30
        while ask(port, "Filecoin.ChainHead")["result"]["Height"] == first:
            assert time.monotonic() < deadline, "the head does not move"
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
        out, log = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "FULLNODE_API_INFO" in out
    for line in ("follows  a simulated node", "store    lmdb://", f"serves   http://127.0.0.1:{port}/", "ready after"):
        assert line in out
    # the first minute has no warning that means nothing
    assert not [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or "refused" in line]
    with pytest.raises(OSError, match="refused"):
        ask(port, "Filecoin.ChainHead")
    assert not list(tmp_path.glob("follower-simulated-*"))
