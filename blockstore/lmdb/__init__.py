"""The embedded store: one LMDB environment, many processes of one machine, one writer. Nothing about other backends."""
