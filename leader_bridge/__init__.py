"""Following a full node: subscription, mirroring, indexing, import. Imports: `rpc` (client), `chain`,
`blockstore`; never `follower`.
"""
