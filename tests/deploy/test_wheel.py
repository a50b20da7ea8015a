"""The wheel gives the same as the checkout: the same files, the same command, the same answers, in an environment that
knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.installed import PACKAGES, PROJECT, build_wheel, install_wheel
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, free_port
from tests.support.recorded import recorded

NO_DATA: Final = {".pyc", ".pyo"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def follower(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a fresh environment."""
    return [str(install_wheel(wheel, tmp_path_factory.mktemp("fresh")))]


def run(command: list[str], folder: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=clean_environment())


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    wanted = {name for name in tracked if Path(name).suffix not in NO_DATA and (ROOT / name).exists()}
    assert held == wanted
    assert {Path(name).name for name in licences} == set(PROJECT["project"]["license-files"])
    assert any(name.endswith((".json.zst", ".json")) for name in held)


def test_the_command_tells_its_version(follower: list[str], tmp_path: Path) -> None:
    done = run([*follower, "--version"], tmp_path)
    assert done.stdout == f"follower {PROJECT['project']['version']}\n", done.stderr


def test_no_module_comes_from_the_checkout(follower: list[str], tmp_path: Path) -> None:
    code = "import rpc, chain, follower, blockstore, leader_bridge; print([m.__file__ for m in (rpc, chain, follower)])"
    done = run([str(Path(follower[0]).parent / "python"), "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) + os.sep not in done.stdout.replace(str(ROOT / ".venv"), "")
    assert str(Path(follower[0]).parents[1]) in done.stdout


def test_it_imports_and_answers(follower: list[str], tmp_path: Path) -> None:
    chain = recorded("devnet/chain.car.zst")
    store = f"lmdb://{tmp_path}/store"
    network = str(chain.parent / "network.json")
    done = run([*follower, "import", str(chain), "--store", store, "--network-file", network], tmp_path)
    assert done.returncode == 0, done.stderr
    listen = f"127.0.0.1:{free_port()}"
    serving = subprocess.Popen(
        [*follower, "serve", "--store", store, "--listen", listen], cwd=tmp_path, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert ask(serving, listen, "Filecoin.ChainHead")["Height"] > 1000
        # decoding a state reads the data files of the actors
        assert ask(serving, listen, "Filecoin.StateReadState", "f04", [])["State"]["MinerCount"] == 2
        assert ask(serving, listen, "rpc.discover")["info"]
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


def ask(serving: subprocess.Popen[str], listen: str, method: str, *params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(f"http://{listen}/rpc/v1", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["result"]
        except urllib.error.URLError as error:
            assert not isinstance(error, urllib.error.HTTPError), error
            assert serving.poll() is None, serving.stderr and serving.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
