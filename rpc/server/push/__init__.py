"""Pushing over WebSockets: channels and subscriptions, and how the values that many of them share are framed.

No method lives here; `rpc.lookup.shared_values` makes the shared values.
"""
