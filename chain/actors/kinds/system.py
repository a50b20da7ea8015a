"""The system actor: its state links to the manifest of actor codes.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `system`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "system",
        "system",
        types="""
State
  BuiltinActors              cid
""",
        methods="""
1          Constructor                         empty
""",
    )
)
