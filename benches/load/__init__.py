"""Benchmarks at the size of mainnet, and the measurements that the model of capacity is fitted to."""
