"""Following, mirroring, imports."""
