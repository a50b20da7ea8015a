"""Lookups in Ethereum's terms: block parameters, executed tipsets, transactions, logs, installed filters."""
