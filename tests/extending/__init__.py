"""What other packages add, and the Python way in."""
