"""The cron actor: what runs at the end of every epoch.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `cron`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "cron",
        "cron",
        types="""
State
  Entries                    []Entry
Entry
  Receiver                   addr
  MethodNum                  uint
""",
        methods="""
1          Constructor                         panics
2          EpochTick                           empty
""",
    )
)
