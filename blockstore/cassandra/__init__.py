"""The shared store over the Cassandra API: tables, sessions, the head row and its log, compare-and-set, bounded
staleness, the trial of a server and the meaning of its errors. Nothing here knows what a row means.
"""
