"""Objects near the readers: what of a far store is kept on this machine, and which source is asked for the rest.

The rule by which objects make room, the objects on the local disk that the processes of a machine share, sources ranked
by how fast they answer, and the reads of the same object joined. Nothing here knows of RPC or of what the bytes mean.
"""
