"""What the bytes mean: addresses, block headers, messages, tipsets, trees, state, actors, Ethereum's view, indices,
consensus. No sockets, no processes, no settings: those are for the rooms above.

Rooms, each may import those before it: `errors` and `ipld` (encodings, trees, objects by CID); `address`, `message`,
`block`, `tipset`, `signature`, `network`, `tipset_messages`; `state` (the state tree); `actors` and `eth`; `index`
(rows over tipsets); `consensus` (ancestry, beacon, finality). Imports `blockstore`.
"""
