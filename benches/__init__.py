"""Benchmarks: `make bench`, or one by name: `python -m benches NAME`."""
