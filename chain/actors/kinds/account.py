"""The account actor: a key address and nothing else.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `account`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "account",
        "account",
        types="""
State
  Address                    addr
AuthenticateMessageParams
  Signature                  bytes
  Message                    bytes
""",
        methods="""
1          Constructor                         addr
2          PubkeyAddress                       empty
3          AuthenticateMessage                 AuthenticateMessageParams          9
2643134072 AuthenticateMessage                 AuthenticateMessageParams          10-
3726118371 UniversalReceiverHook               rest                               9
""",
    )
)
