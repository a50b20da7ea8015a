"""What kept answers cost, and what they save."""
