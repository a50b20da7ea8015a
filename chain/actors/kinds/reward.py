"""The reward actor: block rewards and the baseline they follow.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `reward`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "reward",
        "reward",
        types="""
State
  CumsumBaseline             big
  CumsumRealized             big
  EffectiveNetworkTime       epoch
  EffectiveBaselinePower     big
  ThisEpochReward            big
  ThisEpochRewardSmoothed    shared.FilterEstimate
  ThisEpochBaselinePower     big
  Epoch                      epoch
  TotalStoragePowerReward    big
  SimpleTotal                big
  BaselineTotal              big
AwardBlockRewardParams
  Miner                      addr
  Penalty                    big
  GasReward                  big
  WinCount                   int
""",
        methods="""
1          Constructor                         big
2          AwardBlockReward                    AwardBlockRewardParams
3          ThisEpochReward                     empty
4          UpdateNetworkKPI                    big
""",
    )
)
