"""`follower loadbalancer` looking once, and what it and `follower serve` refuse."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from blockstore.open import open_store
from blockstore.store import FLEET, Batch
from follower.cli import main
from follower.commands.command import CANNOT_RUN
from loadbalancer.fleet import DRAINING, Member
from tests.support.proxies import KINDS


def registered(store: str) -> None:
    """One that serves, one that drains, one that has long been gone."""

    async def write() -> None:
        now = time.time_ns() // 1_000_000
        opened = await open_store(store, map_size=1 << 24)
        batch = Batch()
        for member in (
            Member("10.0.0.1:1234", written_ms=now, max_body=777),
            Member("10.0.0.2:1234", written_ms=now, state=DRAINING),
            Member("10.0.0.3:1234", written_ms=now - 3_600_000),
        ):
            batch.put(FLEET, b"members", member.address.encode(), member.encode())
        await opened.write(batch)
        await opened.close()

    asyncio.run(write())


@pytest.mark.parametrize("kind", KINDS)
def test_one_look_writes_who_serves_and_says_who_is_left_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = f"lmdb://{tmp_path}/store"
    registered(store)
    words = ["loadbalancer", kind, "--store", store, "--bind", "127.0.0.1:8080"]
    with caplog.at_level(logging.WARNING):
        assert main(words) == 0
    text = capsys.readouterr().out
    assert " 10.0.0.1:1234" in text
    assert "10.0.0.2" not in text
    assert "10.0.0.3" not in text
    assert "127.0.0.1:8080" in text
    assert " 777" in text
    assert "10.0.0.2:1234 is left out: it is draining" in caplog.text
    assert "10.0.0.3:1234 is left out: it has not renewed" in caplog.text
    file = tmp_path / "conf"
    assert main([*words, "--output", str(file)]) == 0
    assert (file.read_text(), capsys.readouterr().out) == (text, "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--watch"], "--watch needs --output"),
        (["--bind", "1234"], "'1234' is no HOST:PORT"),
        (["--certificate", "/a b"], "blanks and quotes"),
    ],
)
def test_what_cannot_run(more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadbalancer", "haproxy", "--store", f"lmdb://{tmp_path}/store", *more]) == CANNOT_RUN
    assert said in capsys.readouterr().err


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadbalancer", "haproxy", "--store", f"lmdb://{tmp_path}/store"]) == 1
    assert "has not been made yet" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "more", [["--fleet", "on"], ["--agent-listen", "0.0.0.0:2"], ["--fleet", "on", "--advertise", "[::]:1"]]
)
def test_a_wildcard_is_refused_where_others_must_connect(
    workers: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "--store", f"lmdb://{tmp_path}/s", "--listen", "0.0.0.0:1", "--workers", workers]
    assert main([*words, *more]) == CANNOT_RUN
    said = capsys.readouterr().err
    assert "stands for every address of this machine" in said
    assert "set advertise to the HOST:PORT" in said
    assert not (tmp_path / "s").exists()
