"""Importing a CAR file: reading its objects, closing them, writing its index rows, showing progress.

Following a node does not belong here (`leader_bridge/follow`), nor does the CAR format (`blockstore/car`)."""
