"""Decodes the states and parameters of built-in actors: one table-driven decoder, one module per actor kind.

`schema` turns tables into types, `leaves` has the types without parts, `methods` the kinds and their methods,
`codes` tells kinds and versions from code CIDs. Here lives no walk of a state tree and nothing of the wire.
"""

from chain.actors import kinds

__all__ = ["kinds"]
