"""The command line's subcommands, one file each; `follower.cli` collects them.

A subcommand's file declares `COMMAND`: its name, its sentence of help, an example, `run`, and its own arguments. Its
settings are those that name it in `follower.settings`. What a subcommand imports to do its work is imported inside
`run`, so that `follower status` does not load a bridge. Beside them: `command` (what a subcommand is), `processes`
(what the long-running ones share) and `comparison` (the work of `follower compare`).

This is the only room that composes `follower` with `leader_bridge` and `devnode`; nothing that serves imports it.
"""
