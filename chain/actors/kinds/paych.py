"""A payment channel between two accounts.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `paych`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "paych",
        "paymentchannel",
        types="""
State
  From                       addr
  To                         addr
  ToSend                     big
  SettlingAt                 epoch
  MinSettleHeight            epoch
  LaneStates                 cid
ConstructorParams
  From                       addr
  To                         addr
LaneState
  Redeemed                   big
  Nonce                      uint
Merge
  Lane                       uint
  Nonce                      uint
ModVerifyParams
  Actor                      addr
  Method                     uint
  Data                       bytes
SignedVoucher
  ChannelAddr                addr
  TimeLockMin                epoch
  TimeLockMax                epoch
  SecretHash                 bytes
  Extra                      ?ModVerifyParams
  Lane                       uint
  Nonce                      uint
  Amount                     big
  MinSettleHeight            epoch
  Merges                     []Merge
  Signature                  ?signature
UpdateChannelStateParams
  Sv                         SignedVoucher
  Secret                     bytes
""",
        methods="""
1          Constructor                         ConstructorParams
2          UpdateChannelState                  UpdateChannelStateParams
3          Settle                              empty
4          Collect                             empty
""",
    )
)
