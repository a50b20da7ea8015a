"""The init actor: which actor ID each robust address has.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `init`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "init",
        "init",
        types="""
State
  AddressMap                 cid
  NextID                     actor
  NetworkName                text
ConstructorParams
  NetworkName                text
Exec4Params 10-
  CodeCID                    cid
  ConstructorParams          bytes
  SubAddress                 bytes
ExecParams
  CodeCID                    cid
  ConstructorParams          bytes
""",
        methods="""
1          Constructor                         ConstructorParams
2          Exec                                ExecParams
3          Exec4                               Exec4Params                        10-
""",
    )
)
