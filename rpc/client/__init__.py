"""The client of a full node: addresses, calls, batches, channels. No method and no server here."""
