"""Importing a CAR file: its objects, closing them, its index rows, progress."""
