"""What only a full node knows, and the bridge keeps: where it is kept. Values are the node's JSON answers."""

from __future__ import annotations

from typing import Final

#: META row, partition b"": the node's whole answer to StateGetNetworkParams
NETWORK_PARAMS: Final = b"network_params"
#: RECORDED row under a tipset-key CID: the newest F3 certificate that the node had when it told that head
F3_CERTIFICATE: Final = b"F3GetLatestCertificate"
