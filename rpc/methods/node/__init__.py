"""Methods about the node and its network, and those that only a full node can answer."""
