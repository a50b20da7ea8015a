"""Mix files, and the histogram of latencies."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from follower.commands.load.latencies import Latencies
from follower.commands.load.mix import WHOLE_MIX, BadMix, Call, by_row, chosen, read_mix

LINES = (
    b'{"path":"/rpc/v1","method":"eth_chainId","params":[]}\n'
    b'{"method":"Filecoin.ChainHead","params":[]}\n\n'
    b'{"path":"/rpc/v0","method":"Filecoin.ChainHead","params":[],"error":{"code":1,"message":"x"}}\n'
    b'{"method":"Filecoin.ChainHead","params":[],"result":{"Height":1}}\n'
)


@pytest.mark.parametrize("name", ["mix.jsonl", "mix.jsonl.zst"])
def test_a_mix_is_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(zstandard.compress(LINES) if name.endswith("zst") else LINES)
    calls = read_mix(file)
    assert [(call.path, call.method) for call in calls] == [
        ("/rpc/v1", "eth_chainId"),
        ("/rpc/v1", "Filecoin.ChainHead"),
        ("/rpc/v1", "Filecoin.ChainHead"),
    ]
    assert orjson.loads(calls[0].body) == {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "mix.jsonl:2: not JSON"),
        (b"[]", "mix.jsonl:2: not a call"),
        (b'{"method":7}', "mix.jsonl:2: not a call"),
        (b'{"method":"x","path":"/a b"}', "mix.jsonl:2: the path is not one of HTTP"),
        (b'{"method":"x","path":"/a\\r\\nHost: y"}', "mix.jsonl:2: the path is not one of HTTP"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, text: str) -> None:
    file = tmp_path / "mix.jsonl"
    file.write_bytes(b'{"method":"x"}\n' + line + b"\n")
    with pytest.raises(BadMix, match=text):
        read_mix(file)


def test_a_mix_that_holds_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "broken.zst").write_bytes(b"not zstd")
    for name, text in (("none", "No such file"), ("empty", "holds no call"), ("broken.zst", "cannot be read")):
        with pytest.raises(BadMix, match=text):
            read_mix(tmp_path / name)


def test_calls_are_chosen_and_grouped() -> None:
    calls = [Call.of(name, []) for name in ("eth_a", "b", "eth_c", "b", "eth_a", "eth_a")]
    assert [(name, len(some)) for name, some in by_row(calls)] == [(WHOLE_MIX, 6), ("eth_a", 3), ("b", 2), ("eth_c", 1)]
    # one method alone is no mix
    assert [name for name, _ in by_row(chosen(calls, "b$"))] == ["b"]
    assert {call.method for call in chosen(calls, "eth_", "a$")} == {"eth_c"}
    for methods, text in (("none", "no call"), ("(", "regular expression")):
        with pytest.raises(BadMix, match=text):
            chosen(calls, methods)


@given(st.lists(st.floats(1e-6, 900), min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_those_of_the_sorted_times(times: list[float], percent: float) -> None:
    found = Latencies()
    for time in times:
        found.add(time)
    exact = sorted(times)[max(0, -int(-len(times) * percent // 100) - 1)]
    measured = found.percentile(percent)
    assert measured is not None
    assert exact * 0.985 <= measured <= exact * 1.015


@given(st.lists(st.floats(0, 5000)), st.lists(st.floats(0, 5000)))
def test_merged_latencies_are_those_of_both(some: list[float], more: list[float]) -> None:
    apart, other, together = Latencies(), Latencies(), Latencies()
    for time in some:
        apart.add(time)
        together.add(time)
    for time in more:
        other.add(time)
        together.add(time)
    apart.merge(other)
    assert apart.count == len(some) + len(more)
    assert [apart.percentile(p) for p in (1, 50, 99)] == [together.percentile(p) for p in (1, 50, 99)]


def test_no_time_has_no_percentile() -> None:
    assert Latencies().percentile(50) is None
