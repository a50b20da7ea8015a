"""Traces of requests: what a follower's process reads is noted for whoever traces. Off unless a setting asks for it.

`open.py` reads the settings; `reads.py` stands before stores and sources of objects. The spans themselves are made in
`rpc/server/observe/tracing.py`.
"""
