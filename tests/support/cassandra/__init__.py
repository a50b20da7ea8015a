"""A real Cassandra for tests: servers, certificates, stores in keyspaces of their own."""
