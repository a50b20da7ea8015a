"""What the bytes mean: addresses, block headers, tipsets, messages, HAMT and AMT, the state tree, one
module an actor, the Ethereum mapping. No sockets here. Imports: `blockstore`.
"""
