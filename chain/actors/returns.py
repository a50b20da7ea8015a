"""The return types of the methods of built-in actors, for `StateWaitMsg`.

A method that is not listed returns nothing. Lines are as in `schema` and `methods`; types carry their kind's
name in front, because they stand in one table. Source: go-state-types `builtin/v9` to `v19`, the `Methods` of each
actor, and package `batch`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from chain.actors.leaves import LEAVES, Type
from chain.actors.methods import BY_MANIFEST, NoSuchMethod, OldActors
from chain.actors.reader import read_value
from chain.actors.schema import add_table, type_of, versions_of
from chain.actors.versions import FIRST_VERSION

_TABLE: Final = add_table(
    "returns",
    """
BatchBatchReturn
  SuccessCount               uint
  FailCodes                  []BatchFailCode
BatchFailCode
  Idx                        uint
  Code                       int
DatacapBurnFromReturn
  Balance                    big
  Allowance                  big
DatacapBurnReturn
  Balance                    big
DatacapMintReturn
  Balance                    big
  Supply                     big
  RecipientData              bytes
DatacapTransferFromReturn
  FromBalance                big
  ToBalance                  big
  Allowance                  big
  RecipientData              bytes
DatacapTransferReturn
  FromBalance                big
  ToBalance                  big
  RecipientData              bytes
EamCreate2Return
  ActorID                    uint
  RobustAddress              ?addr
  EthAddress                 fixed20
EamCreateExternalReturn
  ActorID                    uint
  RobustAddress              ?addr
  EthAddress                 fixed20
EamCreateReturn
  ActorID                    uint
  RobustAddress              ?addr
  EthAddress                 fixed20
InitExecReturn
  IDAddress                  addr
  RobustAddress              addr
MarketComputeDataCommitmentReturn 9-11
  CommDs                     []cidparam
MarketDealSettlementSummary 13-
  Payment                    big
  Completed                  bool
MarketGetBalanceReturn
  Balance                    big
  Locked                     big
MarketGetDealActivationReturn
  Activated                  epoch
  Terminated                 epoch
MarketGetDealDataCommitmentReturn
  Data                       cid
  Size                       uint
MarketGetDealTermReturn
  Start                      epoch
  Duration                   epoch
MarketPublishStorageDealsReturn
  IDs                        []deal
  ValidDeals                 bits
MarketSectorDealData 9-11
  CommD                      ?cid
MarketSettleDealPaymentsReturn 13-
  Results                    BatchBatchReturn
  Settlements                []MarketDealSettlementSummary
MarketVerifyDealsForActivationReturn 9-11
  Sectors                    []MarketSectorDealData
MarketVerifyDealsForActivationReturn 12-
  UnsealedCIDs               []?cid
MinerActiveBeneficiary
  Beneficiary                addr
  Term                       MinerBeneficiaryTerm
MinerBeneficiaryTerm
  Quota                      big
  UsedQuota                  big
  Expiration                 epoch
MinerGenerateSectorLocationReturn 18-
  Status                     u8
  AuxData                    bytes
MinerGetBeneficiaryReturn
  Active                     MinerActiveBeneficiary
  Proposed                   ?MinerPendingBeneficiaryChange
MinerGetControlAddressesReturn
  Owner                      addr
  Worker                     addr
  ControlAddrs               []addr
MinerGetMultiAddrsReturn
  MultiAddrs                 bytes
MinerGetOwnerReturn
  Owner                      addr
  Proposed                   ?addr
MinerGetPeerIDReturn
  PeerId                     bytes
MinerPendingBeneficiaryChange
  NewBeneficiary             addr
  NewQuota                   big
  NewExpiration              epoch
  ApprovedByBeneficiary      bool
  ApprovedByNominee          bool
MinerTerminateSectorsReturn
  Done                       bool
MinerVestingFund
  Epoch                      epoch
  Amount                     big
MinerVestingFunds 10-15
  Funds                      []MinerVestingFund
MinerVestingFunds 16-
  Head                       MinerVestingFund
  Tail                       cid
MultisigApproveReturn
  Applied                    bool
  Code                       int
  Ret                        bytes
MultisigProposeReturn
  TxnID                      int
  Applied                    bool
  Code                       int
  Ret                        bytes
PowerCreateMinerReturn
  IDAddress                  addr
  RobustAddress              addr
PowerCurrentTotalPowerReturn 9-14
  RawBytePower               big
  QualityAdjPower            big
  PledgeCollateral           big
  QualityAdjPowerSmoothed    shared.FilterEstimate
PowerCurrentTotalPowerReturn 15-
  RawBytePower               big
  QualityAdjPower            big
  PledgeCollateral           big
  QualityAdjPowerSmoothed    shared.FilterEstimate
  RampStartEpoch             int
  RampDurationEpochs         uint
PowerMinerRawPowerReturn
  RawBytePower               big
  MeetsConsensusMinimum      bool
RewardThisEpochRewardReturn
  ThisEpochRewardSmoothed    shared.FilterEstimate
  ThisEpochBaselinePower     big
VerifregAllocationsResponse
  AllocationResults          BatchBatchReturn
  ExtensionResults           BatchBatchReturn
  NewAllocations             []uint
VerifregClaim
  Provider                   actor
  Client                     actor
  Data                       cid
  Size                       uint
  TermMin                    epoch
  TermMax                    epoch
  TermStart                  epoch
  Sector                     sector
VerifregClaimAllocationsReturn
  BatchInfo                  BatchBatchReturn
  ClaimedSpace               big
VerifregExtendClaimTermsReturn
  SuccessCount               uint
  FailCodes                  []BatchFailCode
VerifregGetClaimsReturn
  BatchInfo                  BatchBatchReturn
  Claims                     []VerifregClaim
VerifregRemoveDataCapReturn
  VerifiedClient             addr
  DataCapRemoved             big
VerifregRemoveExpiredAllocationsReturn
  Considered                 []uint
  Results                    BatchBatchReturn
  DataCapRecovered           big
VerifregRemoveExpiredClaimsReturn
  Considered                 []uint
  Results                    BatchBatchReturn
""",
)

#: by kind: method number, type, the actors versions where not all that have the method
_RETURNS: Final[dict[str, str]] = {
    "account": """
2          addr
2643134072 bool
""",
    "datacap": """
2          DatacapMintReturn
3          DatacapBurnReturn
10         text
11         text
12         big
13         big
14         DatacapTransferReturn
15         DatacapTransferFromReturn
16         big
17         big
18         big
19         DatacapBurnReturn
20         DatacapBurnFromReturn
21         big
48890204   text
80475954   DatacapTransferReturn
114981429  big
116935346  DatacapMintReturn
1434719642 DatacapBurnReturn
1529376545 big
1777121560 big
2061153854 text
2624896501 DatacapBurnReturn
2765635761 big
2979674018 DatacapBurnFromReturn
3261979605 big
3621052141 DatacapTransferFromReturn
3936767397 int
4205072950 big
""",
    "eam": """
2          EamCreateReturn
3          EamCreate2Return
4          EamCreateExternalReturn
""",
    "evm": """
3          ?cid
4          bytes
5          bytes
6          bytes
3844450837 bytes
""",
    "init": """
2          InitExecReturn
3          InitExecReturn
""",
    "market": """
3          big
4          MarketPublishStorageDealsReturn
5          MarketVerifyDealsForActivationReturn
8          MarketComputeDataCommitmentReturn
46363526   label
128053329  int
163777312  MarketGetDealTermReturn
200567895  big
726108461  MarketGetBalanceReturn
935081690  int
1157985802 MarketGetDealDataCommitmentReturn
1900091594 MarketSettleDealPaymentsReturn
2034386435 [][]bool
2236929350 MarketPublishStorageDealsReturn
2280458852 big
2567238399 MarketGetDealActivationReturn
2611213344 sector
2627389465 bool
2986712137 big
4287162428 big
""",
    "miner": """
2          MinerGetControlAddressesReturn
9          MinerTerminateSectorsReturn
16         big
27         bits
29         bits
31         MinerGetBeneficiaryReturn
34         BatchBatchReturn
35         BatchBatchReturn
348244887  bool
1321604665 MinerGenerateSectorLocationReturn
1332909407 MinerGetMultiAddrsReturn
1726876304 MinerVestingFunds
2280458852 big
2812875329 MinerGetPeerIDReturn
3010055991 epoch
3092458564 bool
3180523767 big
3275365574 MinerGetOwnerReturn
3858292296 uint
4026106874 big
4127382196 big
4158972569 MinerGetBeneficiaryReturn
""",
    "multisig": """
2          MultisigProposeReturn
3          MultisigApproveReturn
1289044053 MultisigApproveReturn
1696838335 MultisigProposeReturn
""",
    "power": """
2          PowerCreateMinerReturn
9          PowerCurrentTotalPowerReturn
196739875  int
931722534  big
1173380165 PowerCreateMinerReturn
1987646258 int
3753401894 PowerMinerRawPowerReturn
""",
    "reward": """
3          RewardThisEpochRewardReturn
""",
    "verifreg": """
7          VerifregRemoveDataCapReturn
8          VerifregRemoveExpiredAllocationsReturn
9          VerifregClaimAllocationsReturn
10         VerifregGetClaimsReturn
11         VerifregExtendClaimTermsReturn
12         VerifregRemoveExpiredClaimsReturn
1752273514 VerifregExtendClaimTermsReturn
2199871187 VerifregGetClaimsReturn
2421068268 VerifregRemoveExpiredAllocationsReturn
2873373899 VerifregRemoveExpiredClaimsReturn
3726118371 VerifregAllocationsResponse
""",
}

#: (kind, number) of the evm actor's GetBytecode, whose link stands bare in CBOR and in an object in JSON
_GET_BYTECODE: Final = ("evm", 3)


@cache
def _returns(kind: str, version: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for line in _RETURNS.get(kind, "").split("\n"):
        words = line.split()
        if words and version in versions_of("".join(words[2:])):
            found[int(words[0])] = words[1]
    return found


def return_json(manifest: str, version: int, number: int, data: bytes) -> Any:
    """A method's return value as Lotus writes it; what stands behind it is not looked at, as there.

    Errors: NoSuchMethod (Lotus then gives the bytes as they are), OldActors, BadObject.
    """
    kind = BY_MANIFEST.get(manifest)
    if kind is not None and version < FIRST_VERSION:
        raise OldActors(manifest, version)
    if kind is None or kind.method(number, version) is None:
        raise NoSuchMethod(f"unknown method {number} for actor {manifest}")
    name = _returns(kind.name, version).get(number)
    if name is None:
        return {}
    returned: Type = LEAVES[name] if name in LEAVES else type_of("returns", name, version)
    value = returned.dump(read_value(returned, data))
    return {"Cid": value} if (kind.name, number) == _GET_BYTECODE else value
