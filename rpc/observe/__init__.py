"""What is noted of a call while it is answered, for whoever observes calls: the log of requests, the tracer.

Code deep below a call (forwarding, sources of objects) notes here. Where nobody observes, there is no record, and
nothing is noted. Nothing here knows a log or a tracer.
"""
