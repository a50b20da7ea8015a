"""The serving process: its view of the head, caches, routes to full nodes; the command line and its settings.

Imports `rpc`, `chain` and `blockstore`; only the command line, `follower.commands`, composes it with `leader_bridge`
and `devnode`. Methods of the API belong into `rpc.methods`.
"""
