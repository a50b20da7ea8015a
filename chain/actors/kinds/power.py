"""The power actor: the power and pledge of every miner, and the epoch's cron queue.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `power`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "power",
        "storagepower",
        types="""
State
  TotalRawBytePower          big
  TotalBytesCommitted        big
  TotalQualityAdjPower       big
  TotalQABytesCommitted      big
  TotalPledgeCollateral      big
  ThisEpochRawBytePower      big
  ThisEpochQualityAdjPower   big
  ThisEpochPledgeCollateral  big
  ThisEpochQAPowerSmoothed   shared.FilterEstimate
  MinerCount                 int
  MinerAboveMinPowerCount    int
  RampStartEpoch             int 15-
  RampDurationEpochs         uint 15-
  CronEventQueue             cid
  FirstCronEpoch             epoch
  Claims                     cid
  ProofValidationBatch       ?cid
Claim
  WindowPoStProofType        int
  RawBytePower               big
  QualityAdjPower            big
CreateMinerParams
  Owner                      addr
  Worker                     addr
  WindowPoStProofType        int
  Peer                       bytes
  Multiaddrs                 []bytes
CronEvent
  MinerAddr                  addr
  CallbackPayload            bytes
EnrollCronEventParams
  EventEpoch                 epoch
  Payload                    bytes
MinerConstructorParams
  OwnerAddr                  addr
  WorkerAddr                 addr
  ControlAddrs               []addr
  WindowPoStProofType        int
  PeerId                     bytes
  Multiaddrs                 []bytes
UpdateClaimedPowerParams
  RawByteDelta               big
  QualityAdjustedDelta       big
""",
        methods="""
1          Constructor                         empty
2          CreateMiner                         CreateMinerParams
3          UpdateClaimedPower                  UpdateClaimedPowerParams
4          EnrollCronEvent                     EnrollCronEventParams
5          CronTick                            empty
6          UpdatePledgeTotal                   big
8          SubmitPoRepForBulkVerify            shared.SealVerifyInfo
9          CurrentTotalPower                   empty
196739875  MinerConsensusCountExported         empty                              10-
931722534  NetworkRawPowerExported             empty                              10-
1173380165 CreateMinerExported                 CreateMinerParams                  10-
1987646258 MinerCountExported                  empty                              10-
3753401894 MinerRawPowerExported               int                                10-
""",
    )
)
