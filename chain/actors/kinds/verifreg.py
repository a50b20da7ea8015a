"""The verified registry: verifiers, clients, allocations and claims.

Source of the tables: go-state-types `builtin/v9` to `v19`, package `verifreg`.
"""

from chain.actors.methods import Kind, add_kind

KIND = add_kind(
    Kind(
        "verifreg",
        "verifiedregistry",
        types="""
State
  RootKey                    addr
  Verifiers                  cid
  RemoveDataCapProposalIDs   cid
  Allocations                cid
  NextAllocationId           uint
  Claims                     cid
AddVerifiedClientParams
  Address                    addr
  Allowance                  big
AddVerifierParams
  Address                    addr
  Allowance                  big
Allocation
  Client                     actor
  Provider                   actor
  Data                       cid
  Size                       uint
  TermMin                    epoch
  TermMax                    epoch
  Expiration                 epoch
AllocationClaim 12-
  Client                     actor
  AllocationId               uint
  Data                       cid
  Size                       uint
Claim
  Provider                   actor
  Client                     actor
  Data                       cid
  Size                       uint
  TermMin                    epoch
  TermMax                    epoch
  TermStart                  epoch
  Sector                     sector
ClaimAllocationsParams
  Sectors                    []SectorAllocationClaims 12-
  Sectors                    []SectorAllocationClaim 9-11
  AllOrNothing               bool
ClaimTerm
  Provider                   actor
  ClaimId                    uint
  TermMax                    epoch
ExtendClaimTermsParams
  Terms                      []ClaimTerm
GetClaimsParams
  Provider                   actor
  ClaimIds                   []uint
RemoveDataCapParams
  VerifiedClientToRemove     addr
  DataCapAmountToRemove      big
  VerifierRequest1           RemoveDataCapRequest
  VerifierRequest2           RemoveDataCapRequest
RemoveDataCapRequest
  Verifier                   addr
  VerifierSignature          signature
RemoveExpiredAllocationsParams
  Client                     actor
  AllocationIds              []uint
RemoveExpiredClaimsParams
  Provider                   actor
  ClaimIds                   []uint
SectorAllocationClaim 9-11
  Client                     actor
  AllocationId               uint
  Data                       cid
  Size                       uint
  Sector                     sector
  SectorExpiry               epoch
SectorAllocationClaims 12-
  Sector                     sector
  SectorExpiry               epoch
  Claims                     []AllocationClaim
UniversalReceiverParams
  Type_                      uint
  Payload                    bytes
""",
        methods="""
1          Constructor                         addr
2          AddVerifier                         AddVerifierParams
3          RemoveVerifier                      addr
4          AddVerifiedClient                   AddVerifiedClientParams
7          RemoveVerifiedClientDataCap         RemoveDataCapParams
8          RemoveExpiredAllocations            RemoveExpiredAllocationsParams
9          ClaimAllocations                    ClaimAllocationsParams
10         GetClaims                           GetClaimsParams
11         ExtendClaimTerms                    ExtendClaimTermsParams
12         RemoveExpiredClaims                 RemoveExpiredClaimsParams
1752273514 ExtendClaimTermsExported            ExtendClaimTermsParams             10-
2199871187 GetClaimsExported                   GetClaimsParams                    10-
2421068268 RemoveExpiredAllocationsExported    RemoveExpiredAllocationsParams     10-
2873373899 RemoveExpiredClaimsExported         RemoveExpiredClaimsParams          10-
3726118371 UniversalReceiverHook               UniversalReceiverParams
3916220144 AddVerifiedClientExported           AddVerifiedClientParams            10-
""",
    )
)
