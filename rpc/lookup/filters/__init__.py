"""Filters that clients install and poll: their rows in the store, and what a poll returns."""
