"""A storage miner: its info, sectors, deadlines and funds.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `miner`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "miner",
        "storageminer",
        types="""
State
  Info                       cid
  PreCommitDeposits          big
  LockedFunds                big
  VestingFunds               ?VestingFunds 16-
  VestingFunds               cid 9-15
  FeeDebt                    big
  InitialPledge              big
  PreCommittedSectors        cid
  PreCommittedSectorsCleanUp cid
  AllocatedSectors           cid
  Sectors                    cid
  ProvingPeriodStart         epoch
  CurrentDeadline            uint
  Deadlines                  cid
  EarlyTerminations          bits
  DeadlineCronActive         bool
ApplyRewardParams
  Reward                     big
  Penalty                    big
BeneficiaryTerm
  Quota                      big
  UsedQuota                  big
  Expiration                 epoch
ChangeBeneficiaryParams
  NewBeneficiary             addr
  NewQuota                   big
  NewExpiration              epoch
ChangeMultiaddrsParams
  NewMultiaddrs              []bytes
ChangePeerIDParams
  NewID                      bytes
ChangeWorkerAddressParams
  NewWorker                  addr
  NewControlAddrs            []addr
CheckSectorProvenParams
  SectorNumber               sector
CompactPartitionsParams
  Deadline                   uint
  Partitions                 bits
CompactSectorNumbersParams
  MaskSectorNumbers          bits
ConfirmSectorProofsParams 9-13
  Sectors                    []sector
  RewardSmoothed             shared.FilterEstimate
  RewardBaselinePower        big
  QualityAdjPowerSmoothed    shared.FilterEstimate
DataActivationNotification 13-
  Address                    addr
  Payload                    bytes
Deadline
  Partitions                 cid
  ExpirationsEpochs          cid
  PartitionsPoSted           bits
  EarlyTerminations          bits
  LiveSectors                uint
  TotalSectors               uint
  FaultyPower                PowerPair
  OptimisticPoStSubmissions  cid
  SectorsSnapshot            cid
  PartitionsSnapshot         cid
  OptimisticPoStSubmissionsSnapshot cid
  LivePower                  PowerPair 16-
  DailyFee                   big 16-
Deadlines
  Due                        [48]cid
DeclareFaultsParams
  Faults                     []FaultDeclaration
DeclareFaultsRecoveredParams
  Recoveries                 []RecoveryDeclaration
DeferredCronEventParams
  EventPayload               bytes
  RewardSmoothed             shared.FilterEstimate
  QualityAdjPowerSmoothed    shared.FilterEstimate
DisputeWindowedPoStParams
  Deadline                   uint
  PoStIndex                  uint
ExpirationExtension
  Deadline                   uint
  Partition                  uint
  Sectors                    bits
  NewExpiration              epoch
ExpirationExtension2
  Deadline                   uint
  Partition                  uint
  Sectors                    bits
  SectorsWithClaims          []SectorClaim
  NewExpiration              epoch
ExpirationSet
  OnTimeSectors              bits
  EarlySectors               bits
  OnTimePledge               big
  ActivePower                PowerPair
  FaultyPower                PowerPair
  ~FeeDeduction              big 16-
ExtendSectorExpiration2Params
  Extensions                 []ExpirationExtension2
ExtendSectorExpirationParams
  Extensions                 []ExpirationExtension
FaultDeclaration
  Deadline                   uint
  Partition                  uint
  Sectors                    bits
GenerateSectorLocationParams 18-
  SectorNumber               sector
InternalSectorSetupForPresealParams 14-
  Sectors                    []sector
  RewardSmoothed             shared.FilterEstimate
  RewardBaselinePower        big
  QualityAdjPowerSmoothed    shared.FilterEstimate
MaxTerminationFeeParams 16-
  Power                      big
  InitialPledge              big
MinerInfo
  Owner                      addr
  Worker                     addr
  ControlAddresses           []addr
  PendingWorkerKey           ?WorkerKeyChange
  PeerId                     bytes
  Multiaddrs                 []bytes
  WindowPoStProofType        int
  SectorSize                 uint
  WindowPoStPartitionSectors uint
  ConsensusFaultElapsed      epoch
  PendingOwnerAddress        ?addr
  Beneficiary                addr
  BeneficiaryTerm            BeneficiaryTerm
  PendingBeneficiaryTerm     ?PendingBeneficiaryChange
Partition
  Sectors                    bits
  Unproven                   bits
  Faults                     bits
  Recoveries                 bits
  Terminated                 bits
  ExpirationsEpochs          cid
  EarlyTerminated            cid
  LivePower                  PowerPair
  UnprovenPower              PowerPair
  FaultyPower                PowerPair
  RecoveringPower            PowerPair
PendingBeneficiaryChange
  NewBeneficiary             addr
  NewQuota                   big
  NewExpiration              epoch
  ApprovedByBeneficiary      bool
  ApprovedByNominee          bool
PieceActivationManifest 13-
  CID                        cid
  Size                       uint
  VerifiedAllocationKey      ?VerifiedAllocationKey
  Notify                     []DataActivationNotification
PieceChange 13-
  Data                       cid
  Size                       uint
  Payload                    bytes
PoStPartition
  Index                      uint
  Skipped                    bits
PowerPair
  Raw                        big
  QA                         big
PreCommitSectorBatchParams
  Sectors                    []PreCommitSectorParams
PreCommitSectorBatchParams2
  Sectors                    []SectorPreCommitInfo
PreCommitSectorParams
  SealProof                  int
  SectorNumber               sector
  SealedCID                  cid
  SealRandEpoch              epoch
  DealIDs                    []deal
  Expiration                 epoch
  ReplaceCapacity            bool
  ReplaceSectorDeadline      uint
  ReplaceSectorPartition     uint
  ReplaceSectorNumber        sector
ProveCommitAggregateParams
  SectorNumbers              bits
  AggregateProof             bytes
ProveCommitSectorParams
  SectorNumber               sector
  Proof                      bytes
ProveCommitSectors3Params 13-
  SectorActivations          []SectorActivationManifest
  SectorProofs               []bytes
  AggregateProof             bytes
  AggregateProofType         ?int
  RequireActivationSuccess   bool
  RequireNotificationSuccess bool
ProveCommitSectorsNIParams 14-
  Sectors                    []SectorNIActivationInfo
  AggregateProof             bytes
  SealProofType              int
  AggregateProofType         int
  ProvingDeadline            uint
  RequireActivationSuccess   bool
ProveReplicaUpdates3Params 13-
  SectorUpdates              []SectorUpdateManifest
  SectorProofs               []bytes
  AggregateProof             bytes
  UpdateProofsType           int
  AggregateProofType         ?int
  RequireActivationSuccess   bool
  RequireNotificationSuccess bool
ProveReplicaUpdatesParams
  Updates                    []ReplicaUpdate
ProveReplicaUpdatesParams2
  Updates                    []ReplicaUpdate2
RecoveryDeclaration
  Deadline                   uint
  Partition                  uint
  Sectors                    bits
ReplicaUpdate
  SectorID                   sector
  Deadline                   uint
  Partition                  uint
  NewSealedSectorCID         cid
  Deals                      []deal
  UpdateProofType            int
  ReplicaProof               bytes
ReplicaUpdate2
  SectorID                   sector
  Deadline                   uint
  Partition                  uint
  NewSealedSectorCID         cid
  NewUnsealedSectorCID       cid
  Deals                      []deal
  UpdateProofType            int
  ReplicaProof               bytes
ReportConsensusFaultParams
  BlockHeader1               bytes
  BlockHeader2               bytes
  BlockHeaderExtra           bytes
SectorActivationManifest 13-
  SectorNumber               sector
  Pieces                     []PieceActivationManifest
SectorChanges 13-
  Sector                     sector
  MinimumCommitmentEpoch     epoch
  Added                      []PieceChange
SectorClaim
  SectorNumber               sector
  MaintainClaims             []uint
  DropClaims                 []uint
SectorContentChangedParams = [!]SectorChanges 13-
SectorNIActivationInfo 14-
  SealingNumber              sector
  SealerID                   actor
  SealedCID                  cid
  SectorNumber               sector
  SealRandEpoch              epoch
  Expiration                 epoch
SectorOnChainInfo
  SectorNumber               sector
  SealProof                  int
  SealedCID                  cid
  -DeprecatedDealIDs         []deal 16-
  DealIDs                    []deal 9-15
  Activation                 epoch
  Expiration                 epoch
  DealWeight                 big
  VerifiedDealWeight         big
  InitialPledge              big
  ExpectedDayReward          ?big 16-
  ExpectedStoragePledge      ?big 16-
  ExpectedDayReward          big 9-15
  ExpectedStoragePledge      big 9-15
  PowerBaseEpoch             epoch 12-
  ReplacedDayReward          ?big 16-
  ReplacedSectorAge          epoch 9-11
  ReplacedDayReward          big 9-15
  SectorKeyCID               ?cid
  Flags                      uint 12-
  ~DailyFee                  big 16-
  SimpleQAPower              bool 9-11
SectorPreCommitInfo
  SealProof                  int
  SectorNumber               sector
  SealedCID                  cid
  SealRandEpoch              epoch
  DealIDs                    []deal
  Expiration                 epoch
  UnsealedCid                ?cid
SectorPreCommitOnChainInfo
  Info                       SectorPreCommitInfo
  PreCommitDeposit           big
  PreCommitEpoch             epoch
SectorUpdateManifest 13-
  Sector                     sector
  Deadline                   uint
  Partition                  uint
  NewSealedCID               cid
  Pieces                     []PieceActivationManifest
SubmitWindowedPoStParams
  Deadline                   uint
  Partitions                 []PoStPartition
  Proofs                     []shared.PoStProof
  ChainCommitEpoch           epoch
  ChainCommitRand            bytes
TerminateSectorsParams
  Terminations               []TerminationDeclaration
TerminationDeclaration
  Deadline                   uint
  Partition                  uint
  Sectors                    bits
ValidateSectorStatusParams 18-
  SectorNumber               sector
  Status                     u8
  AuxData                    bytes
VerifiedAllocationKey 13-
  Client                     actor
  ID                         uint
VestingFund
  Epoch                      epoch
  Amount                     big
VestingFunds
  Head                       VestingFund 16-
  Tail                       cid 16-
  Funds                      []VestingFund 9-15
WindowedPoSt
  Partitions                 bits
  Proofs                     []shared.PoStProof
WithdrawBalanceParams
  AmountRequested            big
WorkerKeyChange
  NewWorker                  addr
  EffectiveAt                epoch
""",
        methods="""
1          Constructor                         power.MinerConstructorParams
2          ControlAddresses                    empty
3          ChangeWorkerAddress                 ChangeWorkerAddressParams
4          ChangePeerID                        ChangePeerIDParams
5          SubmitWindowedPoSt                  SubmitWindowedPoStParams
6          PreCommitSector                     PreCommitSectorParams
7          ProveCommitSector                   ProveCommitSectorParams
8          ExtendSectorExpiration              ExtendSectorExpirationParams
9          TerminateSectors                    TerminateSectorsParams
10         DeclareFaults                       DeclareFaultsParams
11         DeclareFaultsRecovered              DeclareFaultsRecoveredParams
12         OnDeferredCronEvent                 DeferredCronEventParams
13         CheckSectorProven                   CheckSectorProvenParams
14         ApplyRewards                        ApplyRewardParams
15         ReportConsensusFault                ReportConsensusFaultParams
16         WithdrawBalance                     WithdrawBalanceParams
17         ConfirmSectorProofsValid            ConfirmSectorProofsParams          9-13
17         InternalSectorSetupForPreseal       InternalSectorSetupForPresealParams 14-
18         ChangeMultiaddrs                    ChangeMultiaddrsParams
19         CompactPartitions                   CompactPartitionsParams
20         CompactSectorNumbers                CompactSectorNumbersParams
21         ConfirmChangeWorkerAddress          empty                              10-
21         ConfirmUpdateWorkerKey              empty                              9
22         RepayDebt                           empty
23         ChangeOwnerAddress                  addr
24         DisputeWindowedPoSt                 DisputeWindowedPoStParams
25         PreCommitSectorBatch                PreCommitSectorBatchParams
26         ProveCommitAggregate                ProveCommitAggregateParams
27         ProveReplicaUpdates                 ProveReplicaUpdatesParams
28         PreCommitSectorBatch2               PreCommitSectorBatchParams2
29         ProveReplicaUpdates2                ProveReplicaUpdatesParams2
30         ChangeBeneficiary                   ChangeBeneficiaryParams
31         GetBeneficiary                      empty
32         ExtendSectorExpiration2             ExtendSectorExpiration2Params
34         ProveCommitSectors3                 ProveCommitSectors3Params          13-
35         ProveReplicaUpdates3                ProveReplicaUpdates3Params         13-
36         ProveCommitSectorsNI                ProveCommitSectorsNIParams         14-
348244887  IsControllingAddressExported        addr                               10-
1010589339 ChangeOwnerAddressExported          addr                               10-
1063480576 ChangeMultiaddrsExported            ChangeMultiaddrsParams             10-
1236548004 ChangePeerIDExported                ChangePeerIDParams                 10-
1321604665 GenerateSectorLocationExported      GenerateSectorLocationParams       18-
1332909407 GetMultiaddrsExported               empty                              10-
1570634796 ChangeBeneficiaryExported           ChangeBeneficiaryParams            10-
1726876304 GetVestingFundsExported             empty                              10-
2280458852 WithdrawBalanceExported             WithdrawBalanceParams              10-
2354970453 ConfirmChangeWorkerAddressExported  empty                              10-
2812875329 GetPeerIDExported                   empty                              10-
3010055991 GetNominalSectorExpirationExported  panics                             18-
3092458564 ValidateSectorStatusExported        ValidateSectorStatusParams         18-
3180523767 InitialPledgeExported               empty                              16-
3275365574 GetOwnerExported                    empty                              10-
3302309124 ChangeWorkerAddressExported         ChangeWorkerAddressParams          10-
3665352697 RepayDebtExported                   empty                              10-
3858292296 GetSectorSizeExported               empty                              10-
4026106874 GetAvailableBalanceExported         empty                              10-
4127382196 MaxTerminationFeeExported           MaxTerminationFeeParams            16-
4158972569 GetBeneficiaryExported              empty                              10-
""",
    )
)
