"""Settings: what wins over what, and errors that name what was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.open import SharedStoreOptions
from follower.setting import ENV_PREFIX
from follower.settings import CannotRun, SettingsError, load_settings, shared_options, split_listen


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "follower.toml"
    file.write_text('workers = 2\nlisten = "127.0.0.1:1"\nstate = "lazy"\n')
    environment = {"FOLLOWER_LISTEN": "127.0.0.1:2", "FOLLOWER_STATE": "full"}
    found = load_settings(file, environment, {"state": "lazy"})
    assert (found["workers"], found.source("workers")) == (2, str(file))
    assert (found["listen"], found.source("listen")) == ("127.0.0.1:2", "FOLLOWER_LISTEN")
    assert (found["state"], found.source("state")) == ("lazy", "--state")
    assert (found["store"], found.source("store")) == ("lmdb://data/store", "default")


def test_the_nodes_own_variable_counts() -> None:
    found = load_settings(None, {"FULLNODE_API_INFO": "tok.en.x:/ip4/1.2.3.4/tcp/1234/http"}, {})
    assert found.source("node") == "FULLNODE_API_INFO"
    shown = {setting.name: value for setting, value, _ in found.table()}
    assert "tok.en" not in shown["node"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("wrokers = 2\n", "'wrokers' (did you mean 'workers'?)"),
        ("workers = 0\n", "workers is 0, which must be from 1 to 256"),
        ('workers = "many"\n', "workers is 'many', which must be a whole number"),
        ("workers = true\n", "workers"),
        ('store = "here"\n', "store"),
        ('listen = "1234"\n', "listen"),
        ('state = "some"\n', "must be one of full, lazy"),
        ("workers = = 2\n", "follower.toml"),
    ],
)
def test_bad_files_name_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "follower.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {}, {})
    assert named in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "none.toml", {}, {})


def test_unknown_variables_are_refused() -> None:
    with pytest.raises(SettingsError, match="FOLLOWER_WROKERS"):
        load_settings(None, {ENV_PREFIX + "WROKERS": "1"}, {})


def test_a_bad_secret_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"FULLNODE_API_INFO": "s3cret:/ip9/nowhere"}, {})
    assert "s3cret" not in str(caught.value)
    assert "FULLNODE_API_INFO" in str(caught.value)


def test_workers_get_what_was_set() -> None:
    found = load_settings(None, {}, {"store": "lmdb:///x", "workers": "3"})
    again = load_settings(None, found.environment(), {})
    assert again["store"] == "lmdb:///x"
    assert again["workers"] == 3


def test_times_of_a_shared_store_must_hold_together() -> None:
    found = load_settings(None, {}, {"delta_ms": "200", "epsilon_ms": "20", "replication": "3"})
    assert shared_options(found) == SharedStoreOptions(200, 20, 3)
    with pytest.raises(CannotRun, match="twice epsilon_ms"):
        shared_options(load_settings(None, {}, {"delta_ms": "200", "epsilon_ms": "100"}))


def test_a_subcommand_reads_no_setting_that_it_has_no_flag_for() -> None:
    serve = load_settings(None, {}, {}, command="serve")
    assert serve["workers"] == 1
    with pytest.raises(KeyError, match="does not give 'backfill_epochs' to follower serve"):
        serve["backfill_epochs"]
    assert load_settings(None, {}, {}, command="config")["backfill_epochs"] == 1000


def test_listen_splits_ipv6() -> None:
    assert split_listen("[::1]:1234") == ("::1", 1234)
