"""A contract: bytecode, storage root (a KAMT) and, once it destroyed itself, a tombstone.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `evm`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "evm",
        "evm",
        since=10,
        types="""
State 10-
  Bytecode                   cid
  BytecodeHash               fixed32
  ContractState              cid
  TransientData              ?TransientData 16-
  Nonce                      uint
  Tombstone                  ?Tombstone
ConstructorParams 10-
  Creator                    fixed20
  Initcode                   bytes
DelegateCallParams 10-
  Code                       cid
  Input                      bytes
  Caller                     fixed20
  Value                      big
GetStorageAtParams 10-
  StorageKey                 fixed32
Tombstone 10-
  Origin                     actor
  Nonce                      uint
TransientData 16-
  TransientDataState         cid
  TransientDataLifespan      TransientDataLifespan
TransientDataLifespan 16-
  Origin                     actor
  Nonce                      uint
""",
        methods="""
1          Constructor                         ConstructorParams
2          Resurrect                           ConstructorParams
3          GetBytecode                         empty
4          GetBytecodeHash                     empty
5          GetStorageAt                        GetStorageAtParams
6          InvokeContractDelegate              DelegateCallParams
3844450837 InvokeContract                      bytes
""",
    )
)
