"""Following full nodes: the subscription, the network check, nodes as ranked sources of objects, the lease."""
