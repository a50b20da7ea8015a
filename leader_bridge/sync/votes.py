"""Which head to fill up to: the highest tipset that most sources have on their chains. And which network they are of.

A hash chain names its own past, so what a majority agrees on at one epoch it agrees on for everything below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.network import NetworkRecord

#: fewer sources than this are no majority of strangers: all of them must agree then
LEAST_VOTERS: Final = 3

#: (epoch, tipset key) of a head and its ancestors, newest first
HashChain = Sequence[tuple[int, bytes]]


class NoMajority(Exception):
    """The sources follow different chains."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The head. `agree`: sources that have it on their chains; `differ`: those that have another tipset there."""

    height: int
    key: bytes
    agree: frozenset[str]
    differ: frozenset[str]


def _needed(voters: int) -> int:
    return voters // 2 + 1 if voters >= LEAST_VOTERS else voters


def choose_network(records: Mapping[str, NetworkRecord]) -> NetworkRecord:
    """The record of most sources, with its upgrades: no header tells what it says. Errors: NoMajority."""
    votes = Counter(map(repr, records.values()))
    said, count = votes.most_common(1)[0]
    if count < _needed(len(records)):
        told = ", ".join(f"{name} {record.name!r}" for name, record in sorted(records.items()))
        raise NoMajority(f"of {len(records)} sources no {_needed(len(records))} tell the same of their network: {told}")
    return next(record for record in records.values() if repr(record) == said)


def choose_head(chains: Mapping[str, HashChain]) -> Chosen:
    """The head of most sources. A source that is behind neither agrees nor differs. Errors: NoMajority."""
    voters = {name: dict(reversed(chain)) for name, chain in chains.items() if chain}
    if not voters:
        raise NoMajority("no source tells its head")
    needed = _needed(len(voters))
    votes = Counter(one for chain in voters.values() for one in chain.items())
    agreed = [one for one, count in votes.items() if count >= needed]
    if not agreed:
        heads = ", ".join(f"{name} at epoch {max(chain)}" for name, chain in sorted(voters.items()))
        raise NoMajority(f"of {len(voters)} sources no {needed} have one chain: {heads}")
    height, key = max(agreed)
    agree = frozenset(name for name, chain in voters.items() if chain.get(height) == key)
    differ = frozenset(
        name for name, chain in voters.items() if name not in agree and min(chain) <= height <= max(chain)
    )
    return Chosen(height, key, agree, differ)
