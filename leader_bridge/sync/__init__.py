"""Filling a store from many sources at once: `follower sync`.

The managers (`downloads`, `results`, `requests`, `votes`, and `cooldowns` and `source_set` in `sources`) are plain data
structures: they know no clock and no socket, and are given the time where they need it. `pool` drives them with tasks;
`sources` has what asks one source; the stages (`headers`, `contents`, `states`) say what is asked for; `run` puts them
in order and keeps the checkpoint. Nothing here serves clients.
"""
