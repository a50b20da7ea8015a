"""What is read of whole states."""
