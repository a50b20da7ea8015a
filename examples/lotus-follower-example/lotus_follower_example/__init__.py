"""What a package can add to lotus-follower: a method, a kind of store, a hook. One file each."""
