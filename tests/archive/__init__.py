"""Files that are served in place, as a tier of objects below a store."""
