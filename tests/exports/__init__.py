"""Snapshots that the store writes: held against those of Lotus and Forest, and imported again."""
