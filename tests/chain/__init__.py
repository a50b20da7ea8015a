"""Encodings, trees, actors, indices."""
