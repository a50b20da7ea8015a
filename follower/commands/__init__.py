"""The command line, one file a subcommand.

The only room that composes `follower` with `leader_bridge` and `devnode`.
"""
