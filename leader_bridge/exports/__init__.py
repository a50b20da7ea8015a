"""Snapshots made from a store beside its serving: which objects, in which order, into which file, and when.

`walk` finds the objects, `seen_objects` remembers them, `exporter` writes one file, `schedule` one after another.
The forms of the files are in `blockstore.car`.
"""
