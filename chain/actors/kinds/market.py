"""The storage market: deals, their states, and escrow.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `market`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "market",
        "storagemarket",
        types="""
State
  Proposals                  cid
  States                     cid
  PendingProposals           cid
  EscrowTable                cid
  LockedTable                cid
  NextID                     deal
  DealOpsByEpoch             cid
  LastCron                   epoch
  TotalClientLockedCollateral big
  TotalProviderLockedCollateral big
  TotalClientStorageFee      big
  PendingDealAllocationIds   cid
  ProviderSectors            cid 13-
ActivateDealsParams 9-11
  DealIDs                    []deal
  SectorExpiry               epoch
BatchActivateDealsParams 12-
  Sectors                    []SectorDeals
  ComputeCid                 bool
ClientDealProposal
  Proposal                   DealProposal
  ClientSignature            signature
ComputeDataCommitmentParams 9-11
  Inputs                     []?SectorDataSpec
DealProposal
  PieceCID                   cid
  PieceSize                  uint
  VerifiedDeal               bool
  Client                     addr
  Provider                   addr
  Label                      label
  StartEpoch                 epoch
  EndEpoch                   epoch
  StoragePricePerEpoch       big
  ProviderCollateral         big
  ClientCollateral           big
DealState
  SectorNumber               sector 13-
  SectorStartEpoch           epoch
  LastUpdatedEpoch           epoch
  SlashEpoch                 epoch
  VerifiedClaim              uint 9-12
OnMinerSectorsTerminateParams
  Epoch                      epoch
  DealIDs                    []deal
PublishStorageDealsParams
  Deals                      []ClientDealProposal
SectorDataSpec 9-11
  DealIDs                    []deal
  SectorType                 int
SectorDeals
  SectorNumber               sector 12-
  SectorType                 int
  SectorExpiry               epoch
  DealIDs                    []deal
VerifyDealsForActivationParams
  Sectors                    []SectorDeals
WithdrawBalanceParams
  ProviderOrClientAddress    addr
  Amount                     big
""",
        methods="""
1          Constructor                         empty
2          AddBalance                          addr
3          WithdrawBalance                     WithdrawBalanceParams
4          PublishStorageDeals                 PublishStorageDealsParams
5          VerifyDealsForActivation            VerifyDealsForActivationParams
6          ActivateDeals                       ActivateDealsParams                9-11
6          BatchActivateDeals                  BatchActivateDealsParams           12-
7          OnMinerSectorsTerminate             OnMinerSectorsTerminateParams
8          ComputeDataCommitment               ComputeDataCommitmentParams        9-11
9          CronTick                            empty
46363526   GetDealLabelExported                int                                10-
128053329  GetDealClientExported               int                                10-
163777312  GetDealTermExported                 int                                10-
200567895  GetDealClientCollateralExported     int                                10-
726108461  GetBalanceExported                  addr                               10-
822473126  AddBalanceExported                  addr                               10-
935081690  GetDealProviderExported             int                                10-
1157985802 GetDealDataCommitmentExported       int                                10-
1900091594 SettleDealPaymentsExported          bits                               13-
2034386435 SectorContentChanged                miner.SectorContentChangedParams   13-
2236929350 PublishStorageDealsExported         PublishStorageDealsParams          10-
2280458852 WithdrawBalanceExported             WithdrawBalanceParams              10-
2567238399 GetDealActivationExported           int                                10-
2611213344 GetDealSectorExported               int                                13-
2627389465 GetDealVerifiedExported             int                                10-
2986712137 GetDealProviderCollateralExported   int                                10-
4287162428 GetDealTotalPriceExported           int                                10-
""",
    )
)
