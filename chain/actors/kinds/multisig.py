"""A wallet of several signers, with a vesting schedule.

Source: go-state-types `builtin/v9` to `v19`, package `multisig`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "multisig",
        "multisig",
        types="""
State
  Signers                    []addr
  NumApprovalsThreshold      uint
  NextTxnID                  int
  InitialBalance             big
  StartEpoch                 epoch
  UnlockDuration             epoch
  PendingTxns                cid
AddSignerParams
  Signer                     addr
  Increase                   bool
ChangeNumApprovalsThresholdParams
  NewThreshold               uint
ConstructorParams
  Signers                    []addr
  NumApprovalsThreshold      uint
  UnlockDuration             epoch
  StartEpoch                 epoch
LockBalanceParams
  StartEpoch                 epoch
  UnlockDuration             epoch
  Amount                     big
ProposeParams
  To                         addr
  Value                      big
  Method                     uint
  Params                     bytes
RemoveSignerParams
  Signer                     addr
  Decrease                   bool
SwapSignerParams
  From                       addr
  To                         addr
Transaction
  To                         addr
  Value                      big
  Method                     uint
  Params                     bytes
  Approved                   []addr
TxnIDParams
  ID                         int
  ProposalHash               bytes
""",
        methods="""
1          Constructor                         ConstructorParams
2          Propose                             ProposeParams
3          Approve                             TxnIDParams
4          Cancel                              TxnIDParams
5          AddSigner                           AddSignerParams
6          RemoveSigner                        RemoveSignerParams
7          SwapSigner                          SwapSignerParams
8          ChangeNumApprovalsThreshold         ChangeNumApprovalsThresholdParams
9          LockBalance                         LockBalanceParams
21182899   RemoveSignerExported                RemoveSignerParams                 10-
1289044053 ApproveExported                     TxnIDParams                        10-
1696838335 ProposeExported                     ProposeParams                      10-
1999470977 LockBalanceExported                 LockBalanceParams                  10-
3028530033 AddSignerExported                   AddSignerParams                    10-
3365893656 CancelExported                      TxnIDParams                        10-
3375931653 ChangeNumApprovalsThresholdExported ChangeNumApprovalsThresholdParams  10-
3726118371 UniversalReceiverHook               rest
3968117037 SwapSignerExported                  SwapSignerParams                   10-
""",
    )
)
