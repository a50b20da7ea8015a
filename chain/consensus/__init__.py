"""What the nodes of the network agree on: the ancestors of a head, the beacon's randomness, finality. Reads headers and
index rows only: no sockets, no state, no settings.
"""
