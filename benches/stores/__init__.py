"""Benchmarks of looking after a store."""
