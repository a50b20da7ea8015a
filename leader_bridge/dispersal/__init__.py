"""Giving followers what they will read: each gets some shards of it, and passes them on to the others."""
