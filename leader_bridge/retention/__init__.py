"""Keeps a store at its size: what is kept, the generations of its objects, and the pass that drops what has aged."""
