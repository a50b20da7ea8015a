"""CAR files with an index, read in place: a read-only tier of objects under any store.

`source` and `http_source` read bytes at an offset, from a local file or by HTTP ranges (`block_cache` keeps what came).
`forest_layout` and `carv2_layout` find an object by the index that the file brings. `archive` is one file, `tier` are
several below a store. Nothing here is written into a store, and every object is verified by its hash.
"""
