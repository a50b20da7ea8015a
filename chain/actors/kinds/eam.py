"""The Ethereum address manager: it makes contracts and holds no state.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `eam`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "eam",
        "eam",
        since=10,
        types="""
Create2Params 10-
  Initcode                   bytes
  Salt                       fixed32
CreateParams 10-
  Initcode                   bytes
  Nonce                      uint
""",
        methods="""
1          Constructor                         empty
2          Create                              CreateParams
3          Create2                             Create2Params
4          CreateExternal                      bytes
""",
    )
)
