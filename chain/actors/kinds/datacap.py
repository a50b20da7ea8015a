"""The datacap actor: the token ledger of verified clients' allowances. Balances count 1e18 a byte.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `datacap`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "datacap",
        "datacap",
        types="""
State
  Governor                   addr
  Token                      TokenState
BurnFromParams
  Owner                      addr
  Amount                     big
BurnParams
  Amount                     big
DecreaseAllowanceParams
  Operator                   addr
  Decrease                   big
DestroyParams
  Owner                      addr
  Amount                     big
GetAllowanceParams
  Owner                      addr
  Operator                   addr
IncreaseAllowanceParams
  Operator                   addr
  Increase                   big
MintParams
  To                         addr
  Amount                     big
  Operators                  []addr
RevokeAllowanceParams
  Operator                   addr
TokenState
  Supply                     big
  Balances                   cid
  Allowances                 cid
  HamtBitWidth               uint
TransferFromParams
  From                       addr
  To                         addr
  Amount                     big
  OperatorData               bytes
TransferParams
  To                         addr
  Amount                     big
  OperatorData               bytes
""",
        methods="""
1          Constructor                         addr
2          Mint                                MintParams                         9
3          Destroy                             DestroyParams                      9
10         Name                                empty                              9
11         Symbol                              empty                              9
12         TotalSupply                         empty                              9
13         BalanceOf                           addr                               9
14         Transfer                            TransferParams                     9
15         TransferFrom                        TransferFromParams                 9
16         IncreaseAllowance                   IncreaseAllowanceParams            9
17         DecreaseAllowance                   DecreaseAllowanceParams            9
18         RevokeAllowance                     RevokeAllowanceParams              9
19         Burn                                BurnParams                         9
20         BurnFrom                            BurnFromParams                     9
21         Allowance                           GetAllowanceParams                 9
48890204   NameExported                        empty                              10-
80475954   TransferExported                    TransferParams                     10-
114981429  TotalSupplyExported                 empty                              10-
116935346  MintExported                        MintParams                         10-
1434719642 BurnExported                        BurnParams                         10-
1529376545 DecreaseAllowanceExported           DecreaseAllowanceParams            10-
1777121560 IncreaseAllowanceExported           IncreaseAllowanceParams            10-
2061153854 SymbolExported                      empty                              10-
2624896501 DestroyExported                     DestroyParams                      10-
2765635761 RevokeAllowanceExported             RevokeAllowanceParams              10-
2979674018 BurnFromExported                    BurnFromParams                     10-
3261979605 BalanceExported                     addr                               10-
3621052141 TransferFromExported                TransferFromParams                 10-
3936767397 GranularityExported                 empty                              10-
4205072950 AllowanceExported                   GetAllowanceParams                 10-
""",
    )
)
