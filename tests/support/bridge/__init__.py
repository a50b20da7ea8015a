"""A node, chains and runs for tests of the bridge and of imports."""
