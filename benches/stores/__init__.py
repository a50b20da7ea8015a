"""Benchmarks of stores and of files that stand for one."""
