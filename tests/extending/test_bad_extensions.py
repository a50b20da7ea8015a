"""A package that cannot be used: the error names it, and says how to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from blockstore.errors import BadExtension
from blockstore.extensions import METHODS, STORES, TIPSET_HOOKS, find_extensions
from blockstore.open import open_store
from follower.extending.hook_runner import load_hooks
from follower.extending.methods import load_methods
from tests.extending.example_package import write_package

Package = Callable[[str, str, str, str], None]

TAKEN = """
from rpc.registry import method

@method("Filecoin.ChainHead")
async def chain_head(ctx) -> int:
    return 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Installs a package: its name, the group and the text of its entry point, its module."""

    def write(name: str, group: str, entry: str, module: str) -> None:
        monkeypatch.syspath_prepend(write_package(tmp_path / name, name, group, entry, module)["PYTHONPATH"])

    return write


@pytest.mark.parametrize(
    ("name", "module", "reason"),
    [
        ("bad-import", "import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no"),
        ("bad-code", "1 / 0", "ZeroDivisionError"),
        ("taken-name", TAKEN, "ValueError: Filecoin.ChainHead is declared twice under /rpc/v0"),
    ],
)
def test_methods_that_cannot_be_loaded(package: Package, name: str, module: str, reason: str) -> None:
    package(name, METHODS, f"x = {name.replace('-', '_')}", module)
    with pytest.raises(BadExtension) as raised:
        load_methods()
    assert f"package {name} cannot be used" in str(raised.value)
    assert reason in str(raised.value)
    assert f"pip uninstall {name}" in str(raised.value)


async def test_a_store_that_is_none(package: Package) -> None:
    package("no-store", STORES, "odd = no_store:open_it", "async def open_it(url, *, readonly=False):\n    return 1\n")
    with pytest.raises(BadExtension, match=r"package no-store cannot be used.*opened a int"):
        await open_store("odd://x")


async def test_a_scheme_of_ours_stays_ours(package: Package) -> None:
    package("takes-memory", STORES, "memory = takes_memory:open_it", "1 / 0")
    assert (await open_store("memory://ours")).url == "memory://ours"


def test_two_packages_with_one_hook(package: Package) -> None:
    package("hook-a", TIPSET_HOOKS, "same = hook_a:Hook", "")
    package("hook-b", TIPSET_HOOKS, "same = hook_b:Hook", "")
    with pytest.raises(BadExtension, match=r"package hook-b cannot be used.*package hook-a has one of the same name"):
        find_extensions(TIPSET_HOOKS)


def test_a_hook_of_another_class(package: Package) -> None:
    package("hook-c", TIPSET_HOOKS, "other = hook_c:Hook", "class Hook: pass")
    with pytest.raises(BadExtension, match=r"package hook-c cannot be used.*derives from follower.TipsetHook"):
        load_hooks()
