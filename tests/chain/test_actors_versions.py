"""The table of upgrades; a new actors version as a contributor adds it; actors that are newer than the table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from blockstore.cid import RAW, Cid, cid_of
from chain.actors.bundles.__main__ import read_bundles
from chain.actors.codes import bundle_of, bundles, check_code, known_code
from chain.actors.methods import KINDS
from chain.actors.versions import (
    FIRST_VERSION,
    LAST_NETWORK_VERSION,
    LAST_VERSION,
    UPGRADES,
    BadNetworkVersion,
    UnknownActors,
    actors_version,
    unknown_actors,
)
from chain.known_networks import CALIBNET, MAINNET
from chain.network import NetworkRecord

ROOT = Path(__file__).parents[2]
NEXT = LAST_VERSION + 1
MADE = cid_of(b"made", RAW)
OWN = NetworkRecord("own", cid_of(b"own genesis"), "t", 1, 30, ((-1, LAST_NETWORK_VERSION),))


def test_the_table_goes_up_by_one() -> None:
    versions = sorted(upgrade.network_version for upgrade in UPGRADES)
    assert versions == list(range(1, LAST_NETWORK_VERSION + 1))
    actors = [actors_version(version) for version in versions]
    assert actors == sorted(actors)
    assert actors_version(0) == 0
    assert set(range(FIRST_VERSION, LAST_VERSION + 1)) <= set(actors)


def test_every_decoded_version_has_its_bundles() -> None:
    for version in range(FIRST_VERSION, LAST_VERSION + 1):
        for network in ("mainnet", "calibrationnet", "devnet"):
            assert bundle_of(network, version) is not None, (network, version)
    assert max(bundle.version for bundle in bundles()) == LAST_VERSION


LOTUS = """
var EmbeddedBuiltinActorsMetadata = []*BuiltinActorsMetadata{{
	Network:     "mainnet",
	Version:     %d,
	BundleGitTag: "v%d.0.0",
	ManifestCid: cid.MustParse("%s"),
	Actors: map[string]cid.Cid{
%s	},
}}
"""


def test_a_new_version_is_one_row_and_one_file(tmp_path: Path) -> None:
    page = (ROOT / "docs/contributing.md").read_text().partition("## An actors version")[2].partition("\n## ")[0]
    for file in ("chain/actors/versions.py", "chain/actors/bundles"):
        assert file in page
    for package in ("blockstore", "chain"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    codes = {kind.manifest: cid_of(kind.name.encode(), RAW) for kind in KINDS.values()}
    lines = "".join(f'\t\t"{name}": cid.MustParse("{code}"),\n' for name, code in codes.items())
    source = tmp_path / "builtin_actors_gen.go"
    source.write_text(LOTUS % (NEXT, NEXT, cid_of(b"manifest"), lines))
    table = tmp_path / "chain/actors/versions.py"
    rows, end, rest = table.read_text().partition("\n)\n")
    table.write_text(f'{rows}\n    Upgrade("Next", {LAST_NETWORK_VERSION + 1}, {NEXT}),{end}{rest}')

    def run(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env={}, check=True, capture_output=True, text=True
        ).stdout

    run("-m", "chain.actors.bundles", str(source))
    state = '{"Signers": ["f0100"], "NumApprovalsThreshold": 1}'
    text = run("-c", f"""
import json
import chain.actors
from blockstore.cid import parse
from chain.actors.codes import known_code
from chain.actors.methods import KINDS, state_json
from chain.actors.schema import to_cbor
from chain.actors.versions import actors_version
name, version = known_code(parse("{codes['multisig']}"))
kind = KINDS["multisig"].type("State", version)
raw = to_cbor(kind, kind.load({state}, kind.zero()) | {{"PendingTxns": parse("{MADE}")}})
shown = state_json(name, version, b"", raw)
print(json.dumps([name, version, actors_version({LAST_NETWORK_VERSION + 1}), shown["NumApprovalsThreshold"]]))
""")  # fmt: skip
    assert json.loads(text) == ["multisig", NEXT, NEXT, 1]
    assert known_code(codes["multisig"]) is None


def test_lotus_source_that_reads_differently_is_refused() -> None:
    with pytest.raises(ValueError, match="as Lotus writes it"):
        read_bundles("package build\n")
    with pytest.raises(ValueError, match="as Lotus writes it"):
        read_bundles(LOTUS % (NEXT, NEXT, MADE, "") + 'ManifestCid: MustParse("x")')


def test_a_network_version_that_is_not_in_the_table() -> None:
    with pytest.raises(BadNetworkVersion, match="unsupported network version 9999"):
        actors_version(9999)
    assert str(unknown_actors(LAST_NETWORK_VERSION + 1)) == (
        f"not held: actors version {NEXT} (of network version {LAST_NETWORK_VERSION + 1}; "
        f"this release decodes versions {FIRST_VERSION} to {LAST_VERSION})"
    )


@pytest.mark.parametrize("network", [MAINNET, CALIBNET])
def test_a_code_in_no_bundle_is_newer_where_lotus_embeds_the_bundles(network: NetworkRecord) -> None:
    """The schedule of a store may be older than the chain: the newest codes are then of an upgrade that it lacks."""
    last = network.upgrades[-1][0]
    with pytest.raises(UnknownActors, match=f"^not held: actors version {NEXT} "):
        check_code(network, last + 1, MADE)
    # some states of calibnet had codes that no bundle kept
    check_code(network, last, MADE)
    bundle = bundle_of(network.name, actors_version(network.upgrades[-1][1]))
    assert bundle is not None
    check_code(network, last + 1, bundle.actors["account"])


def test_a_network_of_its_own_goes_by_its_network_version() -> None:
    check_code(OWN, 1, MADE)
    later = replace(OWN, upgrades=(*OWN.upgrades, (100, LAST_NETWORK_VERSION + 1)))
    check_code(later, 100, MADE)
    with pytest.raises(UnknownActors):
        check_code(later, 101, MADE)
    embedded = bundle_of("mainnet", LAST_VERSION)
    assert embedded is not None
    # around an upgrade states are older than their epoch says
    check_code(later, 101, Cid(embedded.actors["account"]))
