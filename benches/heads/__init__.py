"""Benchmarks of followers whose head moves."""
