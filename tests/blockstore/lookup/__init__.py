"""Tests of `blockstore.lookup`."""
