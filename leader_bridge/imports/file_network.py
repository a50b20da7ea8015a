"""Which network a file's chain is of: told by its genesis, by a network file, or by the store, which must all agree."""

from __future__ import annotations

from pathlib import Path

from blockstore.cid import Cid
from blockstore.errors import WrongNetwork
from chain.errors import BadRequest
from chain.known_networks import known_network
from chain.network import NetworkRecord, read_network_file


def check_network_file(network_file: Path | None, record: NetworkRecord | None) -> None:
    """Check the network file at once, before hours of reading. Errors: BadRequest, WrongNetwork."""
    if network_file is None:
        return
    stands_in = record.genesis if record else Cid(b"")
    told = read_network_file(network_file, stands_in)
    if record is not None and (told.name != record.name or told.genesis != record.genesis):
        raise WrongNetwork(
            f"{network_file} is of network {told.name!r}, genesis {told.genesis}; the store of "
            f"{record.name!r}, genesis {record.genesis}"
        )


def network_of_file(
    path: str | Path, network_file: Path | None, record: NetworkRecord | None, genesis: Cid | None
) -> NetworkRecord:
    """The network of the file `path`, which must be the store's (`record`). `genesis`: the file's, or None.

    Errors: BadRequest (it cannot be told), WrongNetwork.
    """
    if record is not None:
        if genesis is not None and genesis != record.genesis:
            raise WrongNetwork(
                f"{path} holds a chain with genesis {genesis}; the store's is {record.genesis} ({record.name})"
            )
        if genesis is None and network_file is None:
            raise BadRequest(
                f"{path} does not reach down to a genesis, so its network cannot be told from the "
                "chain: name it with --network-file FILE (with a 'genesis' in it); what was read is kept"
            )
        return record
    known = None if genesis is None else known_network(genesis)
    if network_file is not None:
        told = read_network_file(network_file, genesis)
        if genesis is not None and told.genesis != genesis:
            raise WrongNetwork(f"{network_file} says genesis {told.genesis}; {path} holds a chain with {genesis}")
        if known is not None and told.name != known.name:
            raise WrongNetwork(f"{network_file} is of network {told.name!r}; the chain is {known.name}'s")
        return told
    if known is not None:
        return known
    raise BadRequest(
        f"the genesis of {path} ({genesis or 'not in it'}) is of no known network: name it with "
        "--network-file FILE; what was read is kept, and the same import goes on from there"
    )
