"""The ways from a follower to the full nodes behind it: lanes, ranking, hedging, the circuit breaker of each node.

No method is declared here and nothing is answered here: `rpc/lookup/forward.py` decides what is forwarded.
"""
