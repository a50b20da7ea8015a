"""For tests of tables: a real PostgreSQL, and places of tables that are read back alike."""
