"""Applying the fleet to a balancer: when the file changes, when the balancer is told, and when all stands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import FLEET, Batch
from loadbalancer.agent import AgentCheck, Condition
from loadbalancer.control import BadConfiguration, Haproxy, ReloadFailed
from loadbalancer.files import replace_file
from loadbalancer.fleet import DRAINING, FleetWatch, Member
from loadbalancer.settings import BalancerSettings
from loadbalancer.watch import Readiness, Watcher, probe_readiness
from tests.support.proxies import Proxy


class Told:
    """A balancer that takes or refuses what the test says."""

    def __init__(self, checks_health: bool = True) -> None:
        self.checks_health = checks_health
        self.bad = ""
        self.deaf = False
        self.checked = 0
        self.loaded: list[str] = []

    def config(self, members: Sequence[Member], down: Collection[str], behind: Collection[str] = ()) -> str:
        marks = dict.fromkeys(behind, "~") | dict.fromkeys(down, "-")
        return "".join(f"{m.address}{marks.get(m.address, '+')}" for m in members)

    async def check(self, file: Path) -> None:
        self.checked += 1
        if self.bad and self.bad in await asyncio.to_thread(file.read_text):
            raise BadConfiguration(f"{self.bad} is bad")

    async def reload(self, file: Path) -> None:
        if self.deaf:
            raise ReloadFailed("deaf")
        self.loaded.append(await asyncio.to_thread(file.read_text))


class Fleet:
    """A fleet as the watcher finds it."""

    def __init__(self, *ports: int) -> None:
        self.members = [Member(f"10.0.0.1:{port}") for port in ports]
        self.fails = False

    async def look(self) -> list[Member]:
        if self.fails:
            raise StoreUnavailable("gone")
        return self.members


def watching(
    fleet: Fleet, balancer: Told, file: Path, unready: Collection[str] = (), behind: Collection[str] = ()
) -> Watcher:
    async def probe(member: Member) -> Readiness:
        if member.address in unready:
            return Readiness.DOWN
        return Readiness.BEHIND if member.address in behind else Readiness.READY

    return Watcher(fleet, balancer, file, probe=probe)  # type: ignore[arg-type]


async def test_the_balancer_is_told_of_changes_alone(tmp_path: Path) -> None:
    fleet, balancer, file = Fleet(1, 2), Told(), tmp_path / "conf"
    watcher = watching(fleet, balancer, file)
    for _ in range(3):
        await watcher.turn()
    assert balancer.loaded == ["10.0.0.1:1+10.0.0.1:2+"]
    fleet.members = Fleet(1, 2, 3).members
    fleet.members[0] = Member("10.0.0.1:1", state=DRAINING)
    await watcher.turn()
    assert balancer.loaded[1:] == ["10.0.0.1:2+10.0.0.1:3+"] == [file.read_text()]
    assert os.listdir(tmp_path) == ["conf"]
    # another watcher finds the file as it should be
    await watching(fleet, balancer, file).turn()
    assert len(balancer.loaded) == 2


async def test_a_bad_file_never_takes_the_place_of_a_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fleet, balancer, file = Fleet(1), Told(), tmp_path / "conf"
    watcher = watching(fleet, balancer, file)
    await watcher.turn()
    fleet.members = Fleet(1, 2).members
    balancer.bad = ":2"
    for _ in range(3):
        await watcher.turn()
    assert file.read_text() == "10.0.0.1:1+"
    assert balancer.checked == 2, "the same bad file was checked again"
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        f"{file} stays as it was, the new one is refused: :2 is bad"
    ]
    fleet.members = Fleet(1, 3).members
    await watcher.turn()
    assert balancer.loaded == ["10.0.0.1:1+", "10.0.0.1:1+10.0.0.1:3+"]


async def test_a_balancer_that_was_not_told_is_told_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fleet, balancer = Fleet(1), Told()
    balancer.deaf = True
    watcher = watching(fleet, balancer, tmp_path / "conf")
    await watcher.turn()
    await watcher.turn()
    assert balancer.loaded == []
    assert caplog.text.count("deaf") == 1
    balancer.deaf = False
    await watcher.turn()
    await watcher.turn()
    assert balancer.loaded == ["10.0.0.1:1+"]


async def test_what_is_not_known_changes_nothing(tmp_path: Path) -> None:
    fleet, balancer, file = Fleet(1), Told(), tmp_path / "conf"
    watcher = watching(fleet, balancer, file)
    await watcher.turn()
    fleet.fails = True
    await watcher.turn()
    fleet.fails, fleet.members = False, []
    await watcher.turn()
    assert file.read_text() == "10.0.0.1:1+"
    assert len(balancer.loaded) == 1
    # a folder that is not there
    await watching(Fleet(1), balancer, tmp_path / "none" / "conf").turn()
    assert len(balancer.loaded) == 1


async def test_a_balancer_that_asks_nobody_is_told_who_is_ready(tmp_path: Path) -> None:
    fleet, balancer, unready = Fleet(1, 2), Told(checks_health=False), {"10.0.0.1:2"}
    watcher = watching(fleet, balancer, tmp_path / "conf", unready)
    await watcher.turn()
    await watcher.turn()  # the second bad answer in a row
    unready.clear()
    await watcher.turn()
    unready.add("10.0.0.1:1")
    await watcher.turn()
    unready.clear()
    await watcher.turn()  # one bad answer is none
    assert balancer.loaded == ["10.0.0.1:1+10.0.0.1:2+", "10.0.0.1:1+10.0.0.1:2-", "10.0.0.1:1+10.0.0.1:2+"]


async def test_who_is_behind_is_told_too_and_does_not_flap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fleet, balancer, behind = Fleet(1, 2), Told(checks_health=False), set[str]()
    watcher = watching(fleet, balancer, tmp_path / "conf", (), behind)
    await watcher.turn()
    # behind at every other look, as a follower near the limit is
    for _ in range(4):
        behind ^= {"10.0.0.1:2"}
        await watcher.turn()
    assert balancer.loaded == ["10.0.0.1:1+10.0.0.1:2+"]
    behind |= {"10.0.0.1:2"}
    await watcher.turn()
    await watcher.turn()
    assert balancer.loaded[1:] == ["10.0.0.1:1+10.0.0.1:2~"]
    behind |= {"10.0.0.1:1"}
    await watcher.turn()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await watcher.turn()
    assert balancer.loaded[2:] == ["10.0.0.1:1~10.0.0.1:2~"]
    # that nobody is fresh is a warning
    assert [record.levelname for record in caplog.records if "behind: 10.0.0.1:1, 10.0.0.1:2" in record.message] == [
        "WARNING"
    ]
    behind.clear()
    await watcher.turn()
    await watcher.turn()
    assert balancer.loaded[3:] == ["10.0.0.1:1+10.0.0.1:2+"]


async def test_the_loop_ends_when_it_is_told(tmp_path: Path) -> None:
    store = MemoryStore("watched")
    batch = Batch()
    batch.put(FLEET, b"members", b"10.0.0.1:1", Member("10.0.0.1:1").encode())
    await store.write(batch)
    stop, balancer = asyncio.Event(), Told()
    running = asyncio.create_task(Watcher(FleetWatch(store, 60), balancer, tmp_path / "c").run(stop, 60))
    async with asyncio.timeout(10):
        while not balancer.loaded:
            await asyncio.sleep(0.005)
        stop.set()
        await running


# --- what is asked, and what is run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "last_resort", "found"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"", Readiness.READY),
        (b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", Readiness.BEHIND),
        (b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n", Readiness.DOWN),
        (b"", b"", Readiness.DOWN),
        (b"nonsense\n", b"nonsense\n", Readiness.DOWN),
        (b"x" * 200_000, b"x" * 200_000, Readiness.DOWN),
    ],
)
async def test_readiness_is_a_200(answer: bytes, last_resort: bytes, found: Readiness) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0]
        writer.write({b"GET /readyz HTTP/1.1": answer, b"GET /readyz?last-resort HTTP/1.1": last_resort}[asked])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await probe_readiness(Member(f"127.0.0.1:{port}")) is found
    server.close()
    await server.wait_closed()
    assert await probe_readiness(Member(f"127.0.0.1:{port}")) is Readiness.DOWN


async def test_commands_say_what_went_wrong(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    fails = shlex.join([sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(3)"]) + " {file}"
    balancer = Haproxy(BalancerSettings(), check_command=fails, reload_command=fails)
    with pytest.raises(BadConfiguration, match=f"ended with 3: {file}"):
        await balancer.check(file)
    with pytest.raises(ReloadFailed, match=f"ended with 3: {file}"):
        await balancer.reload(file)
    for command in ("/no/such/command {file}", "'", ""):
        with pytest.raises(BadConfiguration):
            await Haproxy(BalancerSettings(), check_command=command).check(file)
    with pytest.raises(ReloadFailed, match="no-socket"):
        await Haproxy(BalancerSettings(), tmp_path / "no-socket").reload(file)


async def test_a_master_that_refuses_for_a_moment_is_asked_again() -> None:
    with tempfile.TemporaryDirectory() as folder:
        socket_file = Path(folder, "master.sock")
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(socket_file))
            # bound, and not listened to: who connects is refused
            asking = asyncio.create_task(Haproxy(BalancerSettings(), socket_file)._ask("show proc"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.2)
            assert not asking.done()
            left_behind.listen()
            connection, _ = await asyncio.to_thread(left_behind.accept)
            with connection:
                assert (await asyncio.to_thread(connection.recv, 100)) == b"show proc\n"
                connection.sendall(b"# workers\n")
        assert await asking == "# workers\n"


async def test_haproxy_that_cannot_take_a_file_is_found_out() -> None:
    """The check passes, but the new process cannot start: the old one goes on, and that is said."""
    proxy = Proxy("haproxy")
    try:
        proxy.file.write_text(proxy.balancer.config([Member("127.0.0.1:9")], ()))
        await asyncio.to_thread(proxy.start)
        proxy.file.write_text("nothing of sense")
        with pytest.raises(ReloadFailed, match="goes on with its former configuration"):
            await proxy.balancer.reload(proxy.file)
        proxy.file.write_text(proxy.balancer.config([Member("127.0.0.1:10")], ()))
        await proxy.balancer.reload(proxy.file)
    finally:
        await asyncio.to_thread(proxy.stop)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "conf"
    with replace_file(file, "first") as new:
        assert (new.read_text(), file.exists()) == ("first", False)
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o600)
    with pytest.raises(RuntimeError), replace_file(file, "second"):
        raise RuntimeError
    assert file.read_text() == "first"
    with replace_file(file, "third"):
        pass
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("third", 0o600)
    assert os.listdir(tmp_path) == ["conf"]


# --- agent checks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "line"),
    [
        (Condition(True), b"up ready 100%\n"),
        (Condition(False, behind=True, reason="node: 9 epochs behind"), b"up ready 1%\n"),
        (Condition(False, draining=True, behind=True), b"drain\n"),
        (Condition(True, draining=True), b"drain\n"),
        (Condition(False, draining=True, reason="x"), b"drain\n"),
        (Condition(False, reason="head: gone"), b"down #head: gone\n"),
        (Condition(False, reason="a\nup ready, b\xff"), b"down #a up ready  b \n"),
        (Condition(False, reason="x" * 500), b"down #" + b"x" * 120 + b"\n"),
    ],
)
async def test_agent_checks_are_one_line(condition: Condition, line: bytes) -> None:
    async def current() -> Condition:
        return condition

    agent = AgentCheck(current)
    await agent.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
    assert await reader.read() == line
    writer.close()
    await agent.close()
