"""Messages as Ethereum transactions."""
