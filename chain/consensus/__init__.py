"""What the chain agrees on: ancestry of a head, finality, the beacon. No sockets and no caches of a process."""
