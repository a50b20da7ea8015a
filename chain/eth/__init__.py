"""How the chain looks to Ethereum: addresses, hashes, blooms, transactions. The JSON of it is in `rpc`."""
