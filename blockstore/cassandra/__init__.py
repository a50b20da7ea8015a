"""The shared store over the Cassandra API: tables, sessions, the head log, compare-and-set, bounded staleness.
Nothing here knows what a row means.
"""
