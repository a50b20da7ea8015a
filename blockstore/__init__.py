"""Bytes by multihash, and the ordered tables over them.

Here live the store protocol and its backends (memory, LMDB, Cassandra API), CAR files, read tiers, the
head log and the lease. Nothing here knows what the bytes mean: no actors, no messages, no JSON.
Imports: the standard library and drivers only.
"""
