"""The object that the genesis block of every network names as its parent.

No block has it as its CID and no node sends it with the chain: Lotus puts it into the store of each new node.
Source: Lotus `chain/gen/genesis/genblock.go`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import cbor2

#: DAG-CBOR, of CID bafyreiaqpwbbyjo4a42saasj36kkrpv4tsherf2e7bvezkert2a7dhonoi
GENESIS_PARENT: Final = cbor2.dumps(
    {
        "Datetime": "2017-05-05 01:27:51",
        "Network": "Filecoin",
        "Token": "Filecoin",
        "TokenAmounts": {
            "TotalSupply": "2,000,000,000",
            "Miners": "1,400,000,000",
            "ProtocolLabs": {"Development": "300,000,000", "Fundraising": "200,000,000", "Foundation": "100,000,000"},
        },
        "Message": "This is the Genesis Block of the Filecoin Decentralized Storage Network.",
    }
)
GENESIS_PARENT_MULTIHASH: Final = b"\x12\x20" + hashlib.sha256(GENESIS_PARENT).digest()
