"""The embedded store: one LMDB environment, many processes on one machine, one writer. Knows no other backend."""
