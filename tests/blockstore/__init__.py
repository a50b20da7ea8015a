"""Stores, CAR files, the head log."""
