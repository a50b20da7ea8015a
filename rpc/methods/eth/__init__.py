"""`eth_*` and `trace_*` methods, and the subscriptions to events."""
