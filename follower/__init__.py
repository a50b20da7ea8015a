"""The serving process: head view, caches, routes to full nodes; the command line and its settings.
Imports: `rpc`, `chain`, `blockstore`; only `follower.cli` and `follower.commands.up` compose it with `leader_bridge`.
"""
