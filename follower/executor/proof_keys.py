"""The verifying keys of proofs: without them proofs count as wrong, and tipsets of real networks give other states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blockstore.cid import Cid
from chain.known_networks import known_network

#: where the proofs' library looks, and its default
_VARIABLE: Final = "FIL_PROOFS_PARAMETER_CACHE"
_DEFAULT: Final = "/var/tmp/filecoin-proof-parameters"


def lacking_keys(genesis: Cid) -> str:
    """What is lacking to execute whole tipsets of a network, in a few words; "" for nothing.

    Private networks may use proofs that need no keys.
    """
    network = known_network(genesis)
    folder = os.environ.get(_VARIABLE) or _DEFAULT
    if network is None or any(Path(folder).glob("*.vk")):
        return ""
    return f"the verifying keys of {network.name}'s proofs (*.vk in {folder}; {_VARIABLE} names the folder)"
