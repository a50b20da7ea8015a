"""An Ethereum externally owned account: no state.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `ethaccount`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "ethaccount",
        "ethaccount",
        since=10,
        types="",
        methods="""
1          Constructor                         empty
""",
    )
)
