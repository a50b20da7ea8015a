"""Rows that find things: tipsets by key and epoch, Ethereum hashes, events, recorded answers, coverage.
Rows are defined here; the bridge decides when they are written.
"""
