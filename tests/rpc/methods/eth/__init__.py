"""`eth_*` methods, filters and subscriptions."""
