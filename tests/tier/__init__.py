"""The object tier: the policy, the disk, joined reads, ranked sources."""
