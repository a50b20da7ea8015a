"""An address that received funds before anything was made there: no state.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `placeholder`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "placeholder",
        "placeholder",
        since=10,
        types="",
        methods="",
    )
)
