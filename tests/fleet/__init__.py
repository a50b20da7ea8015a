"""Many processes: balancers, the registry, a whole fleet."""
