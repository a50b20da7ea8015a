"""Writing tipsets: objects, rows, recorded answers, traces."""
