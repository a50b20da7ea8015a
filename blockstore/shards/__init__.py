"""Dispersal: a piece of data cut into shards, any few of which give it back, each proven by a root in the store."""
