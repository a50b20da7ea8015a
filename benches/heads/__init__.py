"""Benchmarks of followers whose head moves, and of what keeps their event loop."""
