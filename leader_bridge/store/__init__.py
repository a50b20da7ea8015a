"""Writing what is followed: objects children first, tipsets with their index rows, recorded answers and traces."""
