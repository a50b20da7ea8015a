"""What other packages build on: the typed way into a store, their RPC methods, their hooks on tipsets.

The names that they use are those of `follower` itself (`follower.open`, `follower.TipsetHook`) and those in
docs/extending.md and docs/python.md. Knows no command line.
"""
