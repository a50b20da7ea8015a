"""Work behind the store by a pool of workers: indexing, filling gaps, repairing, for the whole fleet once.

The truth is the store: `reports` keeps what was done to which tipset, `wanted` which ranges somebody asked for. A queue
(`engine`) only hints at what to do next, so a queue that is lost loses no work: `gaps` finds what is missing, and it is
enqueued again. A worker (`worker`) runs `tasks`, each an idempotent function of a store and a tipset.

Workers write whole rows only. Rows that are read, changed and written (what an index covers, what a tipset holds)
belong to the leader: `claims` takes over what workers have reported.
"""
